"""The commands of the write path."""
