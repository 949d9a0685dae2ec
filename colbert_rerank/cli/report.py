"""What a re-ranker has to say after its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from colbert_rerank.cli.output import say, warn, warn_always
from colbert_rerank.report import RERANKING

if TYPE_CHECKING:
    from colbert_rerank.evaluate import Evaluation
    from colbert_rerank.rerank import Reranker


def describe(reranker: Reranker) -> None:
    """Counts, what was left out or cut, and where the time went."""
    report = reranker.report
    say(
        f"{report.queries:,} {_queries(report.queries)}, {report.scored:,} of {report.candidates:,} candidates scored",
        queries=report.queries,
        candidates=report.candidates,
        scored=report.scored,
    )
    if reranker.exact_top is not None:
        share = report.skipped / max(1, report.scored)
        say(
            f"{report.skipped:,} ({share:.0%}) by their sketches alone, which rule them out of the first "
            f"{reranker.exact_top:,}",
            skipped=report.skipped,
        )
    warn_of_gaps(reranker)
    if report.read:
        say(
            f"{report.hot:,} of {report.read:,} documents ({report.hot / report.read:.0%}) were in GPU memory already",
            hot=report.hot,
            read=report.read,
        )
    times = report.mean_ms()
    say(
        "mean ms by stage, of the queries that came to it: "
        + ", ".join(f"{stage} {ms:.2f}" for stage, ms in times.items()),
        mean_ms=times,
    )
    wall_ms, busy = report.wall_ms(), report.busy_shares()
    slowest = next(iter(busy))
    shares = [f"{stage} {share:.0%}" for stage, share in busy.items()]
    shares[0] = f"{slowest} (busy {busy[slowest]:.0%} of the time)"
    if slowest == RERANKING and (longest := report.longest_in_turn()):
        shares[0] += f", most of it {longest}"
    say(
        f"wall ms a query: {wall_ms:.2f}; slowest stage: {'; '.join(shares)}",
        wall_ms=wall_ms,
        slowest=slowest,
        busy=busy,
    )


def warn_of_gaps(reranker: Reranker) -> None:
    """Candidates without vectors, queries without candidates, queries that were cut."""
    report, length = reranker.report, reranker.encoder.checkpoint.spec.query.length
    became = {
        "first_stage": "put after the others, in first-stage order",
        "encoded": "encoded now",
        "dropped": "left out",
    }
    for name, count in sorted(report.missing.items()):
        if count:
            noun = "candidate" if count == 1 else "candidates"
            warn_always(f"{count:,} {noun} without vectors: {became[name]}", **{f"missing_{name}": count})
    if report.empty:
        warn_always(f"{report.empty:,} {_queries(report.empty)} found no candidate", empty=report.empty)
    if cut := report.truncated_queries:
        warn_always(
            f"{cut:,} {_queries(cut)} longer than the {length} tokens the model reads, cut", truncated_queries=cut
        )


def warn_of_coverage(result: Evaluation) -> None:
    """Judged queries that the run lacks, and queries of the run without judgements."""
    if result.absent:
        judged = len(next(iter(result.per_query.values())))
        warn(
            f"{judged - len(result.absent):,} of {judged:,} judged queries are in the run; the others count as 0",
            judged=judged,
            absent=len(result.absent),
        )
    if count := len(result.unjudged):
        say(f"{count:,} {_queries(count)} without judgements left out of the measures", unjudged=count)


def _queries(count: int) -> str:
    return "query" if count == 1 else "queries"
