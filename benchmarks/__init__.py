"""Measurements that the README quotes: a script each, its JSON under results/, and `render` for the tables."""
