"""`python -m colbert_rerank`, for where the console script is not on the path."""

from colbert_rerank.cli import main

main()
