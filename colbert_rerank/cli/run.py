"""`colbert-rerank run`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli.evaluate import DEFAULT_MEASURES
from colbert_rerank.cli.first_stage import (
    ONLY_A_SERVER,
    ONLY_ELASTICSEARCH,
    ONLY_FAISS,
    ONLY_OPENSEARCH,
    ElasticsearchOptions,
    FirstStageOptions,
    RetrieverOptions,
    elasticsearch_options,
    first_stage_options,
    retriever_options,
)
from colbert_rerank.cli.help import Command, section
from colbert_rerank.cli.opening import open_reranker, open_store, residency_options, verify_option
from colbert_rerank.cli.options import (
    FOLDER,
    OpenSearchOptions,
    StoreModelOptions,
    opensearch_options,
    ranking_options,
    refuse,
    store_model_options,
)
from colbert_rerank.cli.output import figures, output_options, say, table, warn
from colbert_rerank.cli.progress import progress
from colbert_rerank.cli.report import describe, warn_of_coverage
from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.pipeline import behind

if TYPE_CHECKING:
    from colbert_rerank.rerank import Ranking
    from colbert_rerank.types import Candidates, Query

WRITTEN_BEHIND = 4  # rankings that wait to be measured and made lines


@click.command(cls=Command)
@click.option("--topics", metavar="FILE", required=True, help="Queries: BEIR JSONL, TSV or TREC SGML; - for stdin.")
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option("--output", metavar="FILE", required=True, help="The run file to write; - for stdout.")
@click.option("--k", metavar="N", default=1000, show_default=True, type=click.IntRange(1), help="Candidates a query.")
@click.option("--tag", metavar="NAME", default="colbert-rerank", show_default=True, help="The run's last column.")
@click.option("--qrels", metavar="FILE", help="Judgements; with them the run is measured.")
@click.option(
    "--measures", metavar="NAMES", default=DEFAULT_MEASURES, show_default=True, help="As ir-measures names them."
)
@section("First stage")("--candidates", metavar="RUN", help="A TREC run file; - for stdin.")
@retriever_options
@first_stage_options
@opensearch_options
@elasticsearch_options
@store_model_options
@verify_option
@residency_options("auto")
@ranking_options
@output_options
def run(
    topics: str,
    store: Path,
    output: str,
    k: int,
    tag: str,
    qrels: str | None,
    measures: str,
    candidates: str | None,
    retriever: RetrieverOptions,
    first_stage: FirstStageOptions,
    server: OpenSearchOptions,
    elastic: ElasticsearchOptions,
    model: StoreModelOptions,
    verify: str,
    **options: Any,
) -> None:
    """Re-rank the candidates of every topic and write a TREC run.

    \b
    Examples:
      colbert-rerank run --topics queries.jsonl --store DIR --output run.txt --qrels qrels/test.tsv
      colbert-rerank run --topics topics.txt --store DIR --opensearch URL --index NAME --output run.txt
      colbert-rerank run --topics queries.tsv --store DIR --candidates bm25.txt --k 100 --output run.txt
    """
    from colbert_rerank import trec
    from colbert_rerank.errors import StoreMismatchError
    from colbert_rerank.evaluate import Evaluator, parse_measures

    if [topics, qrels, candidates].count("-") > 1:
        raise UsageError("only one of --topics, --qrels and --candidates can be read from stdin")
    _check_output(
        output,
        {
            "--topics": topics,
            "--qrels": qrels,
            "--candidates": candidates,
            "--query-template": first_stage.query_template,
            "--ca-file": server.ca_file,
            "--os-password-file": server.os_password_file,
            "--os-api-key-file": server.os_api_key_file,
            "--os-token-file": server.os_token_file,
            "--es-password-file": elastic.es_password_file,
            "--es-api-key-file": elastic.es_api_key_file,
            "--es-token-file": elastic.es_token_file,
        },
        store,
    )
    names = parse_measures(measures)
    queries = list(trec.read_topics(topics))
    judged = list(trec.read_qrels(qrels)) if qrels else None
    stages = {name: Evaluator(judged, names) for name in ("first stage", "re-ranked")} if judged is not None else {}
    opened = open_store(store, verify)
    found: Candidates
    if candidates is not None:
        found = _read_run(candidates, queries, options["missing"])
    else:
        opened, found = first_stage.open(opened, server, elastic)
    reranker = open_reranker(opened, model, **options)
    found = retriever.candidates(reranker, found)

    report, run_lines = reranker.report, trec.RunLines(tag)

    def written_out(ranking: Ranking) -> list[str]:
        with report.timed("write"):
            if stages:
                stages["first stage"].add(ranking.first_stage)
                stages["re-ranked"].add(ranking.ranked)
            return list(run_lines.of(ranking.ranked))

    def lines() -> Generator[str, None, None]:
        rankings = reranker.run(queries, found, k, allow_other_index=first_stage.allow_other_index)
        with progress("queries", len(queries)) as update, closing(behind(rankings, written_out, WRITTEN_BEHIND)) as out:
            for done, of_query in enumerate(out, start=1):
                update(done)
                yield from of_query
        if not report.candidates:
            raise InputError(
                f"the first stage found no candidate for any of the {len(queries):,} topics, so no run is written. Is "
                "it the index (and are these the fields) that they are meant for?"
            )
        if not report.scored:
            raise StoreMismatchError(
                f"{store}: none of the {report.candidates:,} candidates has vectors in this store, so nothing was "
                "re-ranked and no run is written. Are their ids those of the documents that were ingested?"
            )

    with closing(lines()) as made:  # else its threads would go on until the error that ended it is forgotten
        written = trec.write_lines(made, output)
    to_stdout = output == "-"
    say(f"{written:,} lines {'on stdout' if to_stdout else f'in {output}'}", lines=written, output=output)
    describe(reranker)
    if stages:
        results = {name: evaluator.result() for name, evaluator in stages.items()}
        warn_of_coverage(results["re-ranked"])
        table("", ["", *names], [[name, *figures(result.mean)] for name, result in results.items()], err=to_stdout)


def _check_output(output: str, inputs: Mapping[str, str | Path | None], store: Path) -> None:
    """Raises UsageError where the run would take the place of what it is made from."""
    target = Path(output).resolve()
    if output == "-":
        return
    for option, name in inputs.items():
        if name and name != "-" and Path(name).is_file() and Path(name).resolve() == target:
            raise UsageError(f"--output {output} is the file of {option}, and would replace it; name another file")
    if target.is_relative_to(store.resolve()):
        raise UsageError(f"--output {output} lies in the store {store}; write the run somewhere else")


def _read_run(path: str, queries: Sequence[Query], missing: str) -> Candidates:
    """The first stage that a run file is, for these queries."""
    from colbert_rerank.candidates.runfile import RunCandidates
    from colbert_rerank.lines import shown_name

    servers = ("opensearch", *ONLY_OPENSEARCH, "elasticsearch", *ONLY_ELASTICSEARCH, *ONLY_A_SERVER)
    refuse(
        ("bm25", "retriever", *ONLY_FAISS, *servers), "the candidates come from --candidates; choose one first stage"
    )
    if missing == "encode":
        raise UsageError("--missing encode: the run in --candidates holds ids and no texts; choose another --missing")
    found = RunCandidates(path)
    asked = {query.query_id for query in queries}
    others = found.query_ids - asked
    if len(others) == len(found.query_ids):
        raise InputError(
            f"the run is of other topics: it has rows of {min(others)!r}, and the topics begin with "
            f"{queries[0].query_id!r}; not one is in both",
            where=shown_name(path),
        )
    if others:
        noun = "query" if len(others) == 1 else "queries"
        warn(f"{len(others):,} {noun} of {shown_name(path)} not among the topics, left out", not_in_topics=len(others))
    return found
