"""Re-ranking in the middle of OpenSearch's own searches: what it needs there, made, looked at, and taken away."""
