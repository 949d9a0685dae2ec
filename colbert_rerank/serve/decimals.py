"""Scores as JSON numbers that every caller reads.

OpenSearch's post-processor takes finite decimals of at most 18 characters: an integer, and a longer one, make it answer
500, and beyond single precision it makes them infinite.
"""

from __future__ import annotations

import orjson

LONGEST = 18  # characters
GREATEST = 3e38  # that single precision holds


def decimal(score: float) -> orjson.Fragment:
    """A score as it is printed everywhere, with six decimals; of numbers too long for that, the ten first digits."""
    held = max(-GREATEST, min(GREATEST, score))
    text = f"{held:.6f}"
    return orjson.Fragment(text if len(text) <= LONGEST else f"{held:.9e}")
