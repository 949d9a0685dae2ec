"""Each kind of source, found by content and read as its users' files are."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from colbert_rerank.errors import InputError, MissingDependencyError, UsageError
from colbert_rerank.types import Document
from ingest.sources import KINDS, SourceOptions, open_source
from ingest.validation import InputReport

BEIR = (
    '{"_id": "4983", "title": "Microstructural development of human newborn cerebral white matter", '
    '"text": "Alterations of the architecture.", "metadata": {"year": 1997, "tags": ["mri"]}}\n'
    "\n"
    '{"_id": "5836", "title": "", "text": "Myelodysplastic syndromes (MDS) are age-dependent \\ud83e\\uddec."}\r\n'
)
BEIR_FIELDS: list[tuple[str, dict[str, object]]] = [
    (
        "4983",
        {
            "title": "Microstructural development of human newborn cerebral white matter",
            "text": "Alterations of the architecture.",
            "metadata": {"year": 1997, "tags": ["mri"]},
        },
    ),
    ("5836", {"title": "", "text": "Myelodysplastic syndromes (MDS) are age-dependent 🧬."}),
]
MSMARCO = '0\tThe presence of communication amid "scientific minds".\n1\tCafé\u2028au lait, 50 °F\x85.\n'
FINANCIAL_TIMES = """<DOC>
<DOCNO> FT911-3 </DOCNO>
<PROFILE>_AN-BEOA7AAIFT</PROFILE>
<DATE>910514
</DATE>
<HEADLINE>
FT  14 MAY 91 / International Company News: Contigas plans DM900m east German
project
</HEADLINE>
<BYLINE>
   By DAVID GOODHART
</BYLINE>
<TEXT>
<P>
CONTIGAS, the German gas group 81 per cent owned by the utility Bayernwerk,
</P>
<!-- PJG ITAG l=90 g=1 f=4 -->
said yesterday that it intends to invest DM900m (Dollars 522m) in AT&amp;T.
</TEXT>
</DOC>
<doc><docno>2</docno><title>simple shear flow</title><author>ting-yili</author><text>a</text><text>b</text></doc><DOC>
<DOCNO>3</DOCNO><HEAD>Deer &lt; bears</HEAD></DOC>
"""


def read(spec: str | Path, options: SourceOptions | None = None) -> list[Document]:
    return list(open_source(str(spec), options or SourceOptions(), InputReport()))


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzipped": gzip.compress,
    "gzipped-in-two-members": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
    "byte-order-mark": lambda data: b"\xef\xbb\xbf" + data,
}


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@pytest.mark.parametrize(
    ("content", "kind", "ids"),
    [(BEIR, "jsonl", ["4983", "5836"]), (MSMARCO, "tsv", ["0", "1"]), (FINANCIAL_TIMES, "trec", ["FT911-3", "2", "3"])],
    ids=["jsonl", "tsv", "trec"],
)
def test_the_format_is_found_by_content_not_by_name(
    tmp_path: Path, content: str, kind: str, ids: list[str], pack: Callable[[bytes], bytes]
) -> None:
    path = put(tmp_path / "corpus.dat", pack(content.encode()))
    source = open_source(str(path), SourceOptions(), InputReport())
    assert (source.kind, source.name) == (kind, str(path))
    documents = list(source)
    assert [document.doc_id for document in documents] == ids
    assert list(source) == documents, "a file can be read again"


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@pytest.mark.parametrize(
    ("content", "kind", "count"),
    [(BEIR, "jsonl", 2), (BEIR, "beir", 2), (MSMARCO, "tsv", 2), (FINANCIAL_TIMES, "trec", 3)],
    ids=["jsonl", "beir", "tsv", "trec"],
)
def test_stdin_is_read_in_the_format_that_is_named(
    monkeypatch: pytest.MonkeyPatch, content: str, kind: str, count: int, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pack(content.encode()))))
    documents = read("-", SourceOptions(format=kind))
    assert len(documents) == count
    assert documents[0].where == "<stdin>:1"
    assert not sys.stdin.closed


def test_stdin_without_a_format_is_refused() -> None:
    with pytest.raises(UsageError, match="stdin need --format"):
        open_source("-", SourceOptions(), InputReport())


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_beir_folder_keeps_all_fields_but_the_id(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, gzip.compress(BEIR.encode()) if name.endswith("gz") else BEIR)
    put(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n")
    source = open_source(str(tmp_path), SourceOptions(), InputReport())
    assert source.kind == "beir"
    documents = list(source)
    assert [(document.doc_id, document.fields) for document in documents] == BEIR_FIELDS
    assert [document.where for document in documents] == [f"{tmp_path / name}:1", f"{tmp_path / name}:3"]


@pytest.mark.parametrize(
    ("line", "id_field", "expected"),
    [
        ('{"_id": "a", "id": "b", "text": "t"}', None, ("a", {"id": "b", "text": "t"})),
        ('{"id": "doc-1", "contents": "t"}', None, ("doc-1", {"id": "doc-1", "contents": "t"})),
        ('{"doc_id": "doc-1", "text": "t"}', None, ("doc-1", {"doc_id": "doc-1", "text": "t"})),
        (
            '{"url": "https://é.org/?a=1", "id": 7}',
            "url",
            ("https://é.org/?a=1", {"url": "https://é.org/?a=1", "id": 7}),
        ),
        ('{"meta": {"id": "a"}, "text": "t"}', "meta.id", ("a", {"meta": {"id": "a"}, "text": "t"})),
        ('{"meta": {"id": "a"}, "meta.id": "b"}', "meta.id", ("b", {"meta": {"id": "a"}, "meta.id": "b"})),
    ],
    ids=["_id-before-id", "id", "doc_id", "the-field-that-the-user-names", "within-an-object", "the-exact-name-wins"],
)
def test_the_id_field_of_jsonl(
    tmp_path: Path, line: str, id_field: str | None, expected: tuple[str, dict[str, object]]
) -> None:
    [document] = read(put(tmp_path / "docs.ndjson", line), SourceOptions(id_field=id_field))
    assert (document.doc_id, document.fields) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"meta": {"id": 7}}', r"the id 7 in 'meta.id' is a number.*jq -c '\.\[\"meta\"\]\[\"id\"\] \|= tostring'"),
        ('{"meta.id": 7}', r"jq -c '\.\[\"meta\.id\"\] \|= tostring'"),
        ('{"meta": "7"}', "no id: the field 'meta.id' is missing or null"),
        ('{"meta": [{"id": "7"}]}', "in 'meta.id' is not a string"),
    ],
    ids=["number", "number-under-the-exact-name", "missing", "list"],
)
def test_an_id_within_an_object_is_a_string(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(put(tmp_path / "docs.jsonl", line), SourceOptions(id_field="meta.id"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "doc_id": "2", "text": "t"}', "docs.jsonl:1: both id and doc_id are there"),
        ('{"url": "1", "body": "t"}', r"docs.jsonl:1: none of _id, id, doc_id is there \(the fields: url, body\)"),
    ],
    ids=["two-that-could-be", "none"],
)
def test_an_id_field_is_never_guessed(tmp_path: Path, line: str, message: str) -> None:
    path = put(tmp_path / "docs.jsonl", line)
    with pytest.raises(UsageError, match=message):
        list(open_source(str(path), SourceOptions(), InputReport("skip")))


TSV = {
    "two-columns": ("7\tshort text\n", None, None, ("7", {"text": "short text"})),
    "three-columns": ("7\tTitle\ttext\n", None, None, ("7", {"title": "Title", "text": "text"})),
    "header-of-dpr": ('id\ttext\ttitle\n7\t"text"\tTitle\n', None, None, ("7", {"text": '"text"', "title": "Title"})),
    "named-columns": (
        "D1555982\thttps://a.org\tTitle\tbody\n",
        ("id", "url", "-", "text"),
        None,
        ("D1555982", {"url": "https://a.org", "text": "body"}),
    ),
    "named-columns-and-the-same-header": ("text\tid\nbody\t7\n", ("text", "id"), None, ("7", {"text": "body"})),
    "another-id-column": ("https://a.org\tbody\n", ("url", "text"), "url", ("https://a.org", {"text": "body"})),
    "windows-line-ends": ("7\ttext\r\n\r\n", None, None, ("7", {"text": "text"})),
}


@pytest.mark.parametrize(("content", "columns", "id_field", "expected"), TSV.values(), ids=TSV)
def test_columns_of_tsv(
    tmp_path: Path,
    content: str,
    columns: tuple[str, ...] | None,
    id_field: str | None,
    expected: tuple[str, dict[str, object]],
) -> None:
    [document] = read(put(tmp_path / "collection.tsv", content), SourceOptions(columns=columns, id_field=id_field))
    assert (document.doc_id, document.fields) == expected


def test_only_line_feeds_end_a_line_of_tsv(tmp_path: Path) -> None:
    documents = read(put(tmp_path / "collection.tsv", MSMARCO))
    assert documents[1].fields == {"text": "Café\u2028au lait, 50 °F\x85."}
    assert documents[1].where.endswith("collection.tsv:2")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("D1\turl\ttitle\tbody\n", SourceOptions(), "4 columns .* Name them, for example --columns id,url,title,text"),
        ("1\ttext\n", SourceOptions(columns=("url", "text")), "no column of ids"),
        ("1\ttext\n", SourceOptions(id_field="url"), r"no column of ids \(url\) among id, text"),
        ("1\ta\tb\n", SourceOptions(columns=("id", "text", "text")), "a column name stands twice"),
        (
            '{"_id": "1"}\n',
            SourceOptions(columns=("id", "text")),
            "--columns names the columns of a TSV, but .* is jsonl",
        ),
        ("<DOC>\n", SourceOptions(id_field="id"), "--id-field does not apply to TREC text"),
        ("1\ttext\n", SourceOptions(format="csv"), "unknown format 'csv'.*"),
    ],
    ids=["four", "no-id", "no-such-id", "name-twice", "columns-of-jsonl", "id-field-of-trec", "unknown-format"],
)
def test_options_that_do_not_fit_are_usage_errors(
    tmp_path: Path, content: str, options: SourceOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read(put(tmp_path / "file", content), options)


def test_trec_text_has_a_field_for_each_tag(tmp_path: Path) -> None:
    path = put(tmp_path / "ft911_1", FINANCIAL_TIMES)
    first, second, third = read(path)
    headline = "FT  14 MAY 91 / International Company News: Contigas plans DM900m east German\nproject"
    text = str(first.fields["text"])
    assert first.fields == {
        "profile": "_AN-BEOA7AAIFT",
        "date": "910514",
        "headline": headline,
        "title": headline,
        "byline": "By DAVID GOODHART",
        "text": text,
    }
    assert text.startswith("CONTIGAS, the German gas group")
    assert text.endswith("(Dollars 522m) in AT&T.")
    assert "<" not in text
    assert second == Document("2", {"title": "simple shear flow", "author": "ting-yili", "text": "a\nb"}, f"{path}:21")
    assert third == Document("3", {"head": "Deer < bears", "title": "Deer < bears"}, f"{path}:21")


def test_a_folder_of_trec_files_is_read_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "ft" / "ft911_2.gz", gzip.compress(b"<DOC><DOCNO>b</DOCNO><TEXT>t</TEXT></DOC>"))
    put(tmp_path / "ft" / "ft911_1", "<DOC><DOCNO>a</DOCNO><TEXT>t</TEXT></DOC>")
    put(tmp_path / "ft" / ".hidden", "<DOC><DOCNO>hidden</DOCNO></DOC>")
    put(tmp_path / "README", "The Financial Times\n")
    source = open_source(str(tmp_path), SourceOptions(), InputReport())
    assert source.kind == "trec"
    assert [document.doc_id for document in source] == ["a", "b"]
    assert "README holds no <DOC>: left out" in caplog.text


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "README", "nothing\n")
    with pytest.raises(InputError, match="no <DOC>"):
        read(tmp_path)


def test_a_unix_compress_file_says_what_to_do(tmp_path: Path) -> None:
    put(tmp_path / "ft911_1.Z", b"\x1f\x9d\x90\x3c")
    with pytest.raises(InputError, match="run `uncompress` on it"):
        read(tmp_path / "ft911_1.Z")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"_id": "1"}]', r"file:1: a JSON array; make it lines with jq -c '\.\[\]'"),
        ("Lorem ipsum dolor\n", r"file:1: unknown source type: 'Lorem ipsum dolor'. A source is one of:"),
        ("\n\n", "file: is empty"),
        (gzip.compress(b""), "file: is empty"),
        (gzip.compress(b"1\ttext")[:12], "file:1: the gzip data is cut off or damaged"),
    ],
    ids=["json-array", "prose", "blank", "empty-gzip", "cut-gzip"],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(put(tmp_path / "file", content))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE], ids=["little-endian", "big-endian"])
def test_a_file_of_utf_16_is_refused_with_a_command_that_converts_it(tmp_path: Path, mark: bytes, packed: bool) -> None:
    text = '{"_id": "é", "text": "tide"}\n'
    content = mark + text.encode("utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be")
    path = put(tmp_path / "my corpus", gzip.compress(content) if packed else content)
    for options in (SourceOptions(), SourceOptions(format="jsonl")):
        with pytest.raises(InputError, match=r"my corpus: is UTF-16, not UTF-8\. Convert it: ") as refusal:
            list(open_source(str(path), options, InputReport("skip")))
    command = str(refusal.value).partition("Convert it: ")[2].replace("NEW_FILE", str(tmp_path / "new"))
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "new").read_text(encoding="utf-8") == text
    [document] = read(tmp_path / "new")
    assert document.doc_id == "é"


def test_utf_16_in_a_folder_of_trec_files_is_told(tmp_path: Path) -> None:
    put(tmp_path / "a", "<DOC><DOCNO>1</DOCNO><TEXT>tide</TEXT></DOC>".encode("utf-16"))
    with pytest.raises(InputError, match="a: is UTF-16"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.json.gz", "docs.tsv", "DOCS.JSONL"])
def test_a_folder_of_lines_is_not_taken_for_trec_text(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, '{"_id": "1", "text": "tide"}\n')
    put(tmp_path / "a.txt", "<DOC><DOCNO>1</DOCNO><TEXT>tide</TEXT></DOC>")
    with pytest.raises(UsageError, match=f"has no corpus.jsonl, but {name}. Name the file itself, or call it corpus"):
        read(tmp_path)
    assert [d.doc_id for d in read(tmp_path, SourceOptions(format="trec"))] == ["1"]


@pytest.mark.parametrize(
    ("spec", "error"),
    [("s3://bucket/corpus", UsageError), ("none.jsonl", InputError)],
    ids=["unknown-scheme", "missing-file"],
)
def test_an_unknown_source_is_refused_with_the_list_of_kinds(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error) as refusal:
        read(spec)
    assert spec.partition(":")[0] in str(refusal.value)
    assert [kind for kind in KINDS if kind not in str(refusal.value)] == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this folder is empty"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("beir", "no corpus.jsonl or corpus.jsonl.gz in this folder"), ("jsonl", "is a folder, expected a jsonl file")],
)
def test_a_folder_named_as_another_kind_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, SourceOptions(format=kind))


def test_an_index_needs_a_client() -> None:
    with pytest.raises(UsageError, match="reading opensearch:wiki needs --opensearch URL"):
        read("opensearch:wiki")


@pytest.mark.parametrize("spec", ["ir_datasets:", "opensearch:"])
def test_a_scheme_without_a_name_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="names nothing"):
        read(spec)


class Section(NamedTuple):
    heading: str
    body: str
    html: bytes


class WikiDoc(NamedTuple):
    doc_id: str
    title: str
    text: str
    sections: tuple[Section, ...]
    html: bytes
    views: int


class TinyDataset:
    """Stands for a registered data set, which would be downloaded."""

    def has_docs(self) -> bool:
        return True

    def docs_iter(self) -> Iterator[WikiDoc]:
        yield WikiDoc("Q1", "Universe", "All of space.", (Section("Etymology", "From Latin.", b"<h2>"),), b"<html>", 3)


def test_a_dataset_of_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import ir_datasets

    monkeypatch.setitem(ir_datasets.registry._registered, "tiny/wiki", TinyDataset())
    source = open_source("ir_datasets:tiny/wiki", SourceOptions(), InputReport())
    assert (source.kind, source.name) == ("ir_datasets", "tiny/wiki")
    fields = {
        "title": "Universe",
        "text": "All of space.",
        "sections": [{"heading": "Etymology", "body": "From Latin."}],
        "views": 3,
    }
    assert list(source) == list(source) == [Document("Q1", fields, "ir_datasets:tiny/wiki:1")]
    with pytest.raises(UsageError, match="are for files"):
        open_source("ir_datasets:tiny/wiki", SourceOptions(id_field="id"), InputReport())


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(InputError, match="ir_datasets:nonesuch: ir_datasets knows no such data set"):
        read("ir_datasets:nonesuch")


def test_a_dataset_without_documents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ir_datasets

    topics_only = SimpleNamespace(has_docs=lambda: False)
    monkeypatch.setitem(ir_datasets.registry._registered, "tiny/topics", topics_only)
    with pytest.raises(InputError, match="has no documents"):
        read("ir_datasets:tiny/topics")


def test_without_ir_datasets_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install ir_datasets"):
        read("ir_datasets:beir/scifact")


@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl"])
def test_a_pipe_is_read_once(tmp_path: Path, name: str) -> None:
    """As `<(zcat corpus.jsonl.gz)` is: what was read to find the format out would be gone."""
    pipe = tmp_path / name
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=r"can be read only once: its documents need --format jsonl, tsv or trec"):
        open_source(str(pipe), SourceOptions(), InputReport())
    lines = "".join(f'{{"_id": "{i}", "text": "t"}}\n' for i in range(20_000))
    writer = threading.Thread(target=pipe.write_text, args=(lines,), daemon=True)
    writer.start()
    assert [d.doc_id for d in read(pipe, SourceOptions("jsonl"))] == [str(i) for i in range(20_000)]
    writer.join(30)


def test_an_id_of_their_own_beside_the_id_is_kept(tmp_path: Path) -> None:
    path = put(tmp_path / "x", '{"_id": "elastic-77", "pid": "p1", "text": "t"}\n')
    (document,) = read(path, SourceOptions(id_field="pid"))
    assert (document.doc_id, document.fields) == ("p1", {"_id": "elastic-77", "pid": "p1", "text": "t"})


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        pytest.param("<TEXT>a<P>b</P>c</TEXT>", {"text": "a b c"}, id="inner tags"),
        pytest.param("<TITLE>t</TITLE> loose <TEXT>a</TEXT> end", {"title": "t", "text": "loose\na\nend"}, id="loose"),
        pytest.param("all of it loose", {"text": "all of it loose"}, id="no tags"),
        pytest.param("<!-- <TEXT> no --><TEXT>use <stdio.h></TEXT>", {"text": "use <stdio.h>"}, id="comment"),
        pytest.param(
            "<DOCHDR>h</DOCHDR><html><TITLE>t</TITLE><p>a<br>b",
            {"dochdr": "h", "title": "t", "text": "a b"},
            id="web page",
        ),
    ],
)
def test_no_text_of_trec_is_passed_over(tmp_path: Path, body: str, fields: dict[str, object]) -> None:
    (document,) = read(put(tmp_path / "x", f"<DOC><DOCNO>1</DOCNO>{body}</DOC>"))
    assert document.fields == fields


def test_a_trec_tag_that_is_not_closed_is_refused_with_its_line(tmp_path: Path) -> None:
    path = put(tmp_path / "x", "<DOC>\n<DOCNO>1</DOCNO>\n<TITLE>t</TITLE>\n<TEXT>the body\n</DOC>\n" + FINANCIAL_TIMES)
    with pytest.raises(InputError, match=r"x:4: <TEXT> without a </TEXT> before </DOC>"):
        read(path)
    report = InputReport("skip")
    assert [d.doc_id for d in open_source(str(path), SourceOptions(), report)] == ["FT911-3", "2", "3"]
    assert report.skipped == {"malformed TREC text": 1}


class FailingDataset(TinyDataset):
    def docs_iter(self) -> Iterator[WikiDoc]:
        yield from super().docs_iter()
        raise RuntimeError("All download sources failed\nhttps://there")


def test_what_ir_datasets_cannot_read_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import ir_datasets

    monkeypatch.setitem(ir_datasets.registry._registered, "tiny/failing", FailingDataset())
    documents = iter(open_source("ir_datasets:tiny/failing", SourceOptions(), InputReport()))
    assert next(documents).doc_id == "Q1"
    with pytest.raises(InputError, match=r"ir_datasets:tiny/failing: .*RuntimeError: All download sources failed"):
        next(documents)
