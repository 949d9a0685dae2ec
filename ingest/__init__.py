"""The write path: documents in, vectors and postings out."""
