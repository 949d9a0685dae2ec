"""What a re-ranker has to say after its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from colbert_rerank.cli.output import say, warn

if TYPE_CHECKING:
    from colbert_rerank.rerank import Report


def describe(report: Report) -> None:
    """Counts, what was left out or cut, and where the time went."""
    say(
        f"{report.queries:,} queries, {report.scored:,} of {report.candidates:,} candidates scored",
        queries=report.queries,
        candidates=report.candidates,
        scored=report.scored,
    )
    warn_of_gaps(report)
    times = report.mean_ms()
    say("mean ms a query: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in times.items()), mean_ms=times)


def warn_of_gaps(report: Report) -> None:
    """Candidates without vectors, queries without candidates, queries that were cut."""
    became = {
        "first_stage": "put after the others, in first-stage order",
        "encoded": "encoded now",
        "dropped": "left out",
    }
    for name, count in sorted(report.missing.items()):
        if count:
            warn(f"{count:,} candidates without vectors: {became[name]}", **{f"missing_{name}": count})
    if report.empty:
        warn(f"{report.empty:,} {_queries(report.empty)} found no candidate", empty=report.empty)
    if cut := report.truncated_queries:
        warn(f"{cut:,} {_queries(cut)} longer than the model reads, cut", truncated_queries=cut)


def _queries(count: int) -> str:
    return "query" if count == 1 else "queries"
