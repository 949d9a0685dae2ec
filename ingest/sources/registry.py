"""From what the user typed to the source that it means."""

from __future__ import annotations

from pathlib import Path

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.lines import STDIN, numbered_lines
from ingest.sources.irds import IrDatasetsSource
from ingest.sources.jsonl import JsonlSource, beir_corpus, beir_source
from ingest.sources.pages import PagesSource, is_pages
from ingest.sources.source import Source, SourceOptions, visible_files
from ingest.sources.trec_text import TrecTextSource
from ingest.sources.tsv import TsvSource
from ingest.validation import InputReport

KINDS = ("beir", "jsonl", "tsv", "trec", "pages", "ir_datasets", "opensearch")
FILE_FORMATS = ("beir", "jsonl", "tsv", "trec", "pages")

_LINES = (".jsonl", ".ndjson", ".json", ".tsv")

_EXPECTED = """A source is one of:
  a BEIR folder (corpus.jsonl[.gz])        beir
  a file of one JSON object a line         jsonl
  a file of id <tab> text                  tsv
  a file or folder of TREC <DOC> text      trec
  a file or folder of images and PDF       pages
  ir_datasets:ID                           ir_datasets
  opensearch:INDEX with --opensearch URL   opensearch
  -  (stdin) or a pipe, with --format jsonl|tsv|trec
Files may be gzipped. Say which it is with --format where the content does not"""


def open_source(spec: str, options: SourceOptions, report: InputReport) -> Source:
    """The source that ``spec`` names: a path, ``-``, or ``ir_datasets:ID``.

    The format of a file is found by its content unless ``options`` names it; that of stdin, a pipe or a device must be
    named. Bad pieces of input go to ``report``.

    Raises UsageError for an unknown kind of source, options that do not belong to it or are missing, and
    ``opensearch:INDEX``, which needs a client that only the caller has; InputError for a path that does not exist or
    cannot be read; MissingDependencyError where an optional package is missing.
    """
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in ("ir_datasets", "opensearch"):
        if not rest:
            raise UsageError(
                f"{spec!r} names nothing: expected {scheme}:{'ID' if scheme == 'ir_datasets' else 'INDEX'}"
            )
        if scheme == "opensearch":
            raise UsageError(f"reading {spec} needs --opensearch URL")
        _only_for_files(spec, options)
        return IrDatasetsSource(rest)
    kind = options.format or _kind_of(spec)
    if kind not in FILE_FORMATS:
        raise UsageError(f"unknown format {kind!r} of {spec}. {_EXPECTED}")
    if spec != STDIN and not Path(spec).exists():
        raise InputError("no such file or folder", where=spec)
    return _file_source(kind, spec, options, report)


def _file_source(kind: str, spec: str, options: SourceOptions, report: InputReport) -> Source:
    if options.columns is not None and kind != "tsv":
        raise UsageError(f"--columns names the columns of a TSV, but {spec} is {kind}")
    if kind == "trec":
        if options.id_field is not None:
            raise UsageError(f"--id-field does not apply to TREC text ({spec}): its ids are in <DOCNO>")
        return TrecTextSource(spec, report)
    if kind == "pages":
        if options.id_field is not None:
            raise UsageError(f"--id-field does not apply to pages ({spec}): their ids are their files' paths")
        if spec == STDIN:
            raise UsageError("pages are read from files, not from stdin")
        return PagesSource(spec, report)
    if kind == "beir":
        return beir_source(spec, id_field=options.id_field, report=report)
    if spec != STDIN and Path(spec).is_dir():
        raise InputError(f"is a folder, expected a {kind} file", where=spec)
    if kind == "tsv":
        return TsvSource(spec, columns=options.columns, id_field=options.id_field, report=report)
    return JsonlSource(spec, id_field=options.id_field, report=report)


def _kind_of(spec: str) -> str:
    if spec == STDIN:
        raise UsageError("documents on stdin need --format jsonl, tsv or trec")
    path = Path(spec)
    if path.exists() and not path.is_file() and not path.is_dir():  # what is read here, the source would not find again
        message = "is a pipe or a device, which can be read only once: its documents need --format jsonl, tsv or trec"
        raise UsageError(f"{spec} {message}")
    if path.is_dir():
        if beir_corpus(path) is not None:
            return "beir"
        if is_pages(path):
            return "pages"
        _refuse_lines(path)
        if pages := [file for file in visible_files(path) if is_pages(file)]:
            raise UsageError(
                f"{path} holds pages, such as {pages[0].name}, and other files. Choose --format pages or --format trec"
            )
        if any(entry.is_file() or entry.is_dir() for entry in path.iterdir()):
            return "trec"
        raise InputError(f"this folder is empty. {_EXPECTED}", where=spec)
    if not path.exists():
        scheme, colon, _ = spec.partition(":")
        if colon:
            raise UsageError(f"unknown source type {scheme!r} in {spec!r}. {_EXPECTED}")
        raise InputError(f"no such file or folder. {_EXPECTED}", where=spec)
    return "pages" if is_pages(path) else _kind_of_file(spec)


def _refuse_lines(folder: Path) -> None:
    """Files of one document a line are named one by one: in TREC text nobody would look for them."""
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().removesuffix(".gz").endswith(_LINES))
    if names:
        raise UsageError(
            f"{folder} has no corpus.jsonl, but {', '.join(names[:3])}{' ...' if names[3:] else ''}. Name the file "
            "itself, or call it corpus.jsonl for a BEIR folder; a folder of TREC text all the same needs --format trec"
        )


def _kind_of_file(path: str) -> str:
    """By the first line that can be read and holds anything; those before it are refused when they are read again."""
    unreadable: list[InputError] = []

    def keep(cause: str, message: str, where: str) -> None:
        unreadable.append(InputError(message, where=where))

    for number, line in numbered_lines(path, keep):
        text = line.strip()
        if not text:
            continue
        if text.startswith("{"):
            return "jsonl"
        if text.startswith("["):
            raise InputError("a JSON array; make it lines with jq -c '.[]'", where=f"{path}:{number}")
        if text.startswith("<"):
            return "trec"
        if "\t" in line:
            return "tsv"
        raise InputError(f"unknown source type: {text[:40]!r}. {_EXPECTED}", where=f"{path}:{number}")
    if unreadable:
        raise unreadable[0]
    raise InputError(f"is empty. {_EXPECTED}", where=path)


def _only_for_files(spec: str, options: SourceOptions) -> None:
    if options != SourceOptions():
        raise UsageError(f"--format, --id-field and --columns are for files; {spec} has its own fields and ids")
