"""`colbert-rerank ingest`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli import InterruptError
from colbert_rerank.cli.help import Command, section
from colbert_rerank.cli.options import (
    FOLDER,
    SERVER,
    ModelOptions,
    OpenSearchOptions,
    given,
    model_options,
    next_command,
    opensearch_options,
    refuse,
)
from colbert_rerank.cli.output import hint, is_quiet, notice, output_options, say, warn, warn_always
from colbert_rerank.cli.progress import progress
from colbert_rerank.errors import InputError, OpenSearchUnreachableError, UsageError
from colbert_rerank.lines import STDIN, shown_name
from colbert_rerank.types import CODECS

if TYPE_CHECKING:
    from colbert_rerank.recipe import Recipe
    from colbert_rerank.store import Manifest
    from ingest.first_stage import FirstStageOpener
    from ingest.pipeline import IngestReport
    from ingest.sources import Source
    from ingest.validation import InputReport

OPENSEARCH = "opensearch:"
NEW_INDEX = ("index", "shards", "replicas", "analyzer", "bm25_k1", "bm25_b", "into_existing")


long_documents = section("Long documents")
new_index = section("An index to fill")


@click.command(cls=Command)
@click.argument("source")
@click.option("--store", required=True, type=FOLDER, help="The folder of the token store; made if it is not there.")
@click.option("--fields", metavar="NAMES", default="title,text", show_default=True, help="Fields to encode, in order.")
@click.option(
    "--format", metavar="NAME", help="beir, jsonl, tsv, trec or pages; needed for stdin, else found by content."
)
@click.option("--id-field", metavar="NAME", help="Field of the document ids; by default _id, id or doc_id.")
@click.option("--columns", metavar="NAMES", help="Columns of a TSV, such as id,url,title,text; - leaves one out.")
@click.option("--qualified-ids", is_flag=True, help="Ids are INDEX/ID, to read one name over several indices.")
@click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="At a bad document."
)
@click.option(
    "--codec",
    type=click.Choice(CODECS),
    help="How vectors are stored; by default float16, or as the store has them.",
)
@click.option(
    "--sketches", type=click.Choice(CODECS), help="A smaller codec beside it, for `--rescore` and `--exact-top`."
)
@long_documents(
    "--long-docs",
    type=click.Choice(["truncate", "windows"]),
    default="truncate",
    show_default=True,
    help="Longer than the model reads: cut, or encode in overlapping windows.",
)
@long_documents(
    "--stride",
    metavar="TOKENS",
    type=click.IntRange(1),
    help="From window to window; by default three quarters of what one holds.",
)
@long_documents(
    "--pool-factor",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Store a mean for every N vectors that are alike.",
)
@new_index("--index", metavar="NAME", help="The OpenSearch index to fill; made if it is not there.")
@new_index(
    "--shards", metavar="N", default=1, show_default=True, type=click.IntRange(1), help="Of an index that is made."
)
@new_index(
    "--replicas",
    metavar="N",
    type=click.IntRange(0),
    help="Of an index that is made; by default 1 where a node can hold it.",
)
@new_index("--analyzer", metavar="NAME", default="english", show_default=True, help="Of an index that is made.")
@new_index("--bm25-k1", metavar="X", default=1.2, type=float, show_default=True, help="Of an index that is made.")
@new_index("--bm25-b", metavar="X", default=0.75, type=float, show_default=True, help="Of an index that is made.")
@new_index("--into-existing", is_flag=True, help="Write into an index that colbert-rerank did not make.")
@new_index("--allow-other-index", is_flag=True, help="Fill an index that was made again from this store.")
@opensearch_options
@model_options
@output_options
def ingest(
    source: str,
    store: Path,
    fields: str,
    on_error: Any,
    codec: str | None,
    sketches: str | None,
    long_docs: str,
    stride: int | None,
    pool_factor: int,
    index: str | None,
    qualified_ids: bool,
    allow_other_index: bool,
    server: OpenSearchOptions,
    model: ModelOptions,
    **options: Any,
) -> None:
    """Put documents into a search index and a token store.

    SOURCE is a BEIR folder, a JSONL, TSV or TREC file (gzipped or not), - for stdin, ir_datasets:ID, images and PDF
    files (for a model of page images), or opensearch:INDEX, an index that exists already, which is only read. Without
    --opensearch the first stage is a BM25 index beside the store. An interrupted ingest goes on when the same command
    is run again.

    \b
    Examples:
      colbert-rerank ingest corpus.jsonl --store DIR
      colbert-rerank ingest beir/scifact --store DIR --opensearch http://localhost:9200 --index scifact
      colbert-rerank ingest opensearch:articles --fields title,body --store DIR --opensearch http://localhost:9200
    """
    from colbert_rerank.recipe import Recipe
    from colbert_rerank.store.codecs import row_bytes
    from colbert_rerank.types import Index
    from ingest.pipeline import READ_AHEAD, IngestReport
    from ingest.pipeline import ingest as run
    from ingest.sources.count import expected_documents
    from ingest.validation import InputReport

    recipe = Recipe(tuple(name.strip() for name in fields.split(",") if name.strip()))
    if not recipe.fields:
        raise UsageError("--fields names no field")
    report = IngestReport(InputReport(on_error))
    found = _source(source, server, index, recipe, qualified_ids, options, report.input)
    read_from = found if isinstance(found, Index) else None
    first_stage = None if read_from else _first_stage(recipe, server, index, options)
    encoder = model.load()
    if stride and long_docs != "windows":
        raise UsageError("--stride is of --long-docs windows")
    if long_docs == "windows":
        stride = stride or max(1, encoder.checkpoint.spec.document.room * 3 // 4)
    recipe = recipe._replace(
        pages=not encoder.checkpoint.spec.text_documents, stride=stride or 0, pool_factor=pool_factor
    )
    if (found.kind == "pages") != recipe.pages:
        raise UsageError(
            f"{source}: the model reads {'page images' if recipe.pages else 'texts'}, and this holds none. Choose "
            "another model or source"
        )
    row_size = row_bytes((codec or "float16", sketches or ""), encoder.dim)
    told = not given("fields")
    with progress("documents", expected_documents(found)) as update, keeping(report):

        def advance(done: IngestReport) -> None:
            nonlocal told
            stored = done.unchanged + done.updated
            update(done.encoded + stored, size=done.rows * row_size, free=stored)
            if not told and done.input.accepted >= READ_AHEAD:  # a misspelt name is told before hours have gone
                told = True
                _warn_of_unseen_fields(done.input, f"none of the first {done.input.accepted:,} documents")

        manifest = run(
            found,
            store,
            encoder,
            recipe=recipe,
            report=report,
            first_stage=first_stage,
            index=read_from,
            index_name=(source.removeprefix(OPENSEARCH) if read_from else index) or "",
            codec=codec,
            sketches=sketches,
            allow_other_index=allow_other_index,
            progress=advance,
        )
    describe(report, manifest, store)
    if given("fields"):
        _warn_of_unseen_fields(report.input, "no document")
    if not report.input.accepted:
        raise InputError(f"no document was accepted, so there is nothing to search; {source} holds none that is usable")
    hint("Search it:  " + next_command('rerank "your question"', store, server))


def _source(
    spec: str,
    server: OpenSearchOptions,
    index: str | None,
    recipe: Recipe,
    qualified_ids: bool,
    options: Any,
    report: InputReport,
) -> Source:
    from ingest.sources import SourceOptions, open_source

    if spec.startswith(OPENSEARCH) and spec != OPENSEARCH and server.opensearch:
        from ingest.sources.opensearch import OpenSearchSource

        refuse(NEW_INDEX, f"{spec} is only read, and stays the first stage itself")
        refuse(("format", "id_field", "columns"), f"the documents of {spec} have ids and fields already")
        found = OpenSearchSource(server.connect(), spec.removeprefix(OPENSEARCH), qualified_ids=qualified_ids)
        if given("fields"):
            found.check_fields(recipe.fields)
        return found
    refuse(("qualified_ids",), "only an index that is read, opensearch:INDEX, has such ids")
    columns = tuple(c.strip() for c in options["columns"].split(",")) if options["columns"] else None
    return open_source(spec, SourceOptions(options["format"], options["id_field"], columns), report)


def _first_stage(recipe: Recipe, server: OpenSearchOptions, index: str | None, options: Any) -> FirstStageOpener | None:
    """For the OpenSearch index to fill; ``None`` for the one beside the store."""
    from ingest.first_stage import opensearch
    from mappings import index_body

    if server.opensearch is None:
        refuse((*NEW_INDEX, *SERVER), "an index in OpenSearch needs --opensearch URL")
        return None
    if index is None:
        raise UsageError("name the index to fill: --index NAME")
    try:
        body = index_body(
            recipe.fields,
            shards=options["shards"],
            replicas=options["replicas"],
            analyzer=options["analyzer"],
            k1=options["bm25_k1"],
            b=options["bm25_b"],
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    wanted = given("shards", "replicas", "analyzer", "bm25_k1", "bm25_b")
    return opensearch(server.connect(), index, body, into_existing=options["into_existing"], wanted=wanted)


def _warn_of_unseen_fields(report: InputReport, who: str) -> None:
    from ingest.fields import shown

    if absent := report.unseen_fields:
        names = ", ".join(map(repr, absent))
        warn(f"of --fields, {who} has text in {names} (their fields: {shown(report.field_names)})", fields=absent)


@contextmanager
def keeping(report: IngestReport) -> Iterator[None]:
    """Say how much of the work is kept, at Ctrl-C and where the server is lost."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptError(f"interrupted; {_kept(report)}", error) from None
    except OpenSearchUnreachableError:
        warn_always(_kept(report))
        raise


def _kept(report: IngestReport) -> str:
    stored = report.committed + report.unchanged
    behind = f", {report.unposted:,} of them not in the index yet" if report.unposted else ""
    return f"stored so far: {stored:,} {_documents(stored)}{behind}. The same command goes on from there"


def describe(report: IngestReport, manifest: Manifest, store: Path) -> None:
    """Say what an ingest did: counts, what was cut or left out, and where the time went."""
    from colbert_rerank.store import Store
    from colbert_rerank.store.manifest import REPAIR

    # while another ingest goes on there is no index yet that would say it
    documents = manifest.index.documents if manifest.index else len(Store.open(store))
    size = sum(s.bytes for s in manifest.segments) / 1e6
    say(
        f"{store}: {documents:,} {_documents(documents)}, {manifest.rows:,} token vectors, {size:,.1f} MB "
        f"({report.encoded:,} encoded, {report.unchanged + report.updated:,} stored before)",
        documents=documents,
        rows=manifest.rows,
        encoded=report.encoded,
        unchanged=report.unchanged,
        updated=report.updated,
        posted=report.posted,
        bytes=sum(s.bytes for s in manifest.segments),
    )
    if others := manifest.unfinished:
        missing = [
            "what a repair lost is not here again: ingest it"
            if name == REPAIR
            else f"an ingest of {name!r} is under way, or was interrupted: run it to its end"
            for name in others
        ]
        warn(
            f"{store}: not complete. {'; '.join(missing)}. If that is to be missing: `store repair --accept-losses`",
            unfinished=list(others),
        )
    if report.updated:
        say(f"{report.updated:,} {_documents(report.updated)} of the same text with other fields, posted again")
    if owed := report.owed:
        warn(
            f"{owed:,} {_documents(owed)} of the store may be missing in the index, since an ingest was interrupted or "
            "the index was lost: ingest what they came from once more",
            owed=owed,
        )
    if cut := report.truncated:
        limit = manifest.document_identity["document_length"]
        of_these = " of those encoded now" if report.unchanged + report.updated else ""
        warn(f"{cut:,} {_documents(cut)}{of_these} longer than the {limit} tokens the model reads, cut", truncated=cut)
    if spaced := report.input.ids_with_spaces:
        warn(f"{spaced:,} {_documents(spaced)} with white space in the id: a TREC run cannot name them", spaces=spaced)
    for name, count in report.input.numbers.items():
        have = "has" if count == 1 else "have"
        warn(
            f"{count:,} {_documents(count)} {have} a number or boolean in {name!r}, which is not encoded as text",
            field=name,
            numbers=count,
        )
    if is_quiet() and (skipped := report.input.total_skipped):
        notice(f"{skipped:,} {_documents(skipped)} skipped", skipped=skipped)
    for cause, count in sorted(report.input.skipped.items()):
        warn(f"{count:,} skipped: {cause}", cause=cause, skipped=count)
    for refusal in report.input.refusals:
        say(f"  {refusal}", **_place(refusal.where))
    if more := report.input.total_skipped - len(report.input.refusals):
        say(f"  and {more:,} more", more=more)
    times = ", ".join(f"{stage} {s:.1f}" for stage, s in report.seconds.items())
    say(f"seconds: {times}", seconds=report.seconds)


def _place(where: str) -> dict[str, object]:
    """``corpus.jsonl:12`` apart; a document of an index has no line, whatever its id ends with."""
    file, _, line = where.rpartition(":")
    return {"file": file, "line": int(line)} if line.isdecimal() and _is_file(file) else {"where": where}


def _is_file(name: str) -> bool:
    return name == shown_name(STDIN) or Path(name).is_file()


def _documents(count: int) -> str:
    return "document" if count == 1 else "documents"
