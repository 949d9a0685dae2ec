"""First stages: every module here yields the same `ScoredDoc`s."""
