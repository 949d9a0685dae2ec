"""End-to-end retrieval: candidates from the store's own token vectors, past what a first stage of words finds."""
