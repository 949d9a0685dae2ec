"""Bad files: under `stop` one clear error with its place, under `skip` everything good is kept and the rest counted."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from colbert_rerank.errors import InputError
from colbert_rerank.recipe import Recipe
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport, validated

GOOD = '{"_id": "d0", "title": "Journal of Mathematical Physics", "text": "A peer-reviewed journal."}'
LAST = '{"_id": "d9", "text": "Person-centered therapy, also known as person-centered psychotherapy."}'

# The bad line stands second of three; it costs itself and nothing else.
BAD_LINES = {
    "cut-json": ('{"_id": "d1", "text": "cut of', "malformed JSON", "not one JSON value: Unterminated string"),
    "two-objects": ('{"_id": "d1"} {"_id": "d2"}', "malformed JSON", "Extra data at column 15"),
    "single-quotes": ("{'_id': 'd1'}", "malformed JSON", "Expecting property name"),
    "nan": ('{"_id": "d1", "text": "t", "score": NaN}', "malformed JSON", "NaN is no JSON value"),
    "infinity": ('{"_id": "d1", "text": "t", "a": [{"b": -Infinity}]}', "malformed JSON", "-Infinity is no JSON value"),
    "number-past-the-range": ('{"_id": "d1", "text": "t", "n": 1e999}', "malformed JSON", "1e999 is out of range"),
    "same-key-twice": ('{"_id": "d1", "text": "a", "text": "b"}', "malformed JSON", "'text' stands twice"),
    "same-key-twice-within": (
        '{"_id": "d1", "text": "a", "m": {"k": 1, "k": 2}}',
        "malformed JSON",
        "'k' stands twice",
    ),
    "nested-past-reason": ("[" * 100_000, "malformed JSON", "nested too deeply"),
    "array": ('["d1", "text"]', "not an object", "found an array. Turn an array into lines with jq"),
    "string": ('"d1"', "not an object", "found a string"),
    "null-line": ("null", "not an object", "found null"),
    "no-id": ('{"text": "t"}', "missing id", "the field '_id' is missing or null"),
    "null-id": ('{"_id": null, "text": "t"}', "missing id", "the field '_id' is missing or null"),
    "empty-id": ('{"_id": "", "text": "t"}', "empty id", "the id is empty"),
    "integer-id": ('{"_id": 7, "text": "t"}', "non-string id", "the id 7 in '_id' is a number; ids are strings"),
    "boolean-id": ('{"_id": true, "text": "t"}', "non-string id", "is not a string"),
    "mongo-id": ('{"_id": {"$oid": "5f"}, "text": "t"}', "non-string id", "is not a string"),
    "id-null": ('{"_id": "null", "text": "t"}', "reserved id", "the id is the word null"),
    "id-with-a-parameter": ('{"_id": "${a}", "text": "t"}', "reserved id", "holds ${"),
    "id-of-600-bytes": (f'{{"_id": "{"é" * 300}", "text": "t"}}', "id too long", "has 600 bytes"),
    "id-with-an-escaped-tab": ('{"_id": "a\\tb", "text": "t"}', "control character in id", "holds a control character"),
    "used-id": ('{"_id": "d0", "text": "t"}', "duplicate id", "id 'd0' was already used"),
    "empty-text": (
        '{"_id": "d1", "title": "", "text": " "}',
        "empty text",
        "has no text to encode: title is empty, text is empty",
    ),
    "half-a-surrogate-in-text": ('{"_id": "d1", "text": "\\ud83d"}', "lone surrogate", "half of a surrogate pair"),
    "half-a-surrogate-in-a-key": ('{"_id": "d1", "text": "t", "\\uDE00": 1}', "lone surrogate", "surrogate pair"),
    "latin-1": ('{"_id": "d1", "text": "café"}'.encode("latin-1"), "not UTF-8", "byte 0xe9 at column 27"),
    "utf-8-surrogate": (b'{"_id": "d1", "text": "\xed\xa0\x80"}', "not UTF-8", "byte 0xed at column 24"),
}


def ingest(path: Path, report: InputReport, options: SourceOptions | None = None) -> list[str]:
    source = open_source(str(path), options or SourceOptions(), report)
    return [document.doc_id for document, _ in validated(source, Recipe(), report)]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(("line", "cause", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_of_jsonl(tmp_path: Path, line: str | bytes, cause: str, message: str, packed: bool) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    content = b"\n".join([GOOD.encode(), b"", raw, LAST.encode()])
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError) as refusal:
        ingest(path, InputReport())
    assert refusal.value.where == f"{path}:3"
    assert message in str(refusal.value)

    report = InputReport("skip")
    assert ingest(path, report) == ["d0", "d9"]
    assert report.skipped == {cause: 1}
    assert list(map(str, report.refusals)) == [str(refusal.value)]


def test_a_bad_first_line_does_not_settle_the_id_field(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"broken\n{"doc_id": "d1", "text": "t"}\n')
    report = InputReport("skip")
    assert ingest(path, report) == ["d1"]
    assert report.skipped == {"malformed JSON": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1", "1 column(s), expected 2 (id, text); tabs end columns"),
        (b"1\ta\tb", "3 column(s), expected 2 (id, text)"),
        (b"\ttext", "the id is empty"),
        (b"1\t", "document '1' has no text"),
        (b"0\tagain", "id '0' was already used"),
        (b"1\tcaf\xe9", "not UTF-8: byte 0xe9 at column 6"),
    ],
    ids=["one-column", "three-columns", "empty-id", "empty-text", "used-id", "latin-1"],
)
def test_a_bad_line_of_tsv(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "collection.tsv"
    path.write_bytes(b"0\tThe presence of communication\n" + line + b"\n9\tlast\n")
    with pytest.raises(InputError) as refusal:
        ingest(path, InputReport())
    assert refusal.value.where == f"{path}:2"
    assert message in str(refusal.value)
    report = InputReport("skip")
    assert ingest(path, report) == ["0", "9"]
    assert report.total_skipped == 1


def trec(doc_id: str) -> str:
    return f"<DOC>\n<DOCNO> {doc_id} </DOCNO>\n<TEXT>\nwords\n</TEXT>\n</DOC>\n"


@pytest.mark.parametrize(
    ("bad", "line", "message"),
    [
        (b"<DOC>\n<TEXT>\nwords\n</TEXT>\n</DOC>\n", 7, "0 <DOCNO> in one <DOC>, expected 1"),
        (b"<DOC><DOCNO>1</DOCNO><DOCNO>2</DOCNO><TEXT>t</TEXT></DOC>\n", 7, "2 <DOCNO> in one <DOC>"),
        (b"<DOC><DOCNO>1</DOCNO></DOC>\n", 7, "document '1' has no text"),
        (b"<DOC><DOCNO></DOCNO><TEXT>t</TEXT></DOC>\n", 7, "the id is empty"),
        (b"<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>cut\n", 7, "this <DOC> is not closed before the next one (line 10)"),
        (b"</DOC>\n", 7, "</DOC> without a <DOC>"),
        (b"<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>caf\xe9\nt\n</TEXT></DOC>\n", 9, "not UTF-8: byte 0xe9"),
    ],
    ids=["no-docno", "two-docnos", "no-text", "empty-docno", "not-closed", "not-opened", "latin-1"],
)
def test_a_bad_document_of_trec_text(tmp_path: Path, bad: bytes, line: int, message: str) -> None:
    path = tmp_path / "ft911_1"
    path.write_bytes(trec("FT911-1").encode() + bad + trec("FT911-2").encode())
    with pytest.raises(InputError) as refusal:
        ingest(path, InputReport())
    assert refusal.value.where == f"{path}:{line}"
    assert message in str(refusal.value)
    report = InputReport("skip")
    assert ingest(path, report) == ["FT911-1", "FT911-2"]
    assert report.total_skipped == 1, "a document that lost a line is left out whole, and counted once"


def test_the_last_document_of_a_cut_trec_file(tmp_path: Path) -> None:
    path = tmp_path / "ft911_1"
    path.write_text(trec("FT911-1") + "<DOC>\n<DOCNO> FT911-2 </DOCNO>\n<TEXT>\nwor")
    with pytest.raises(InputError, match=r"ft911_1:7: this <DOC> is not closed before the end of the file \(line 10\)"):
        ingest(path, InputReport())
    report = InputReport("skip")
    assert ingest(path, report) == ["FT911-1"]
    assert report.skipped == {"malformed TREC text": 1}


LINES = 20_000


@pytest.mark.parametrize("damage", ["cut", "another-checksum", "cut-in-the-checksum"])
def test_a_damaged_gzip(tmp_path: Path, damage: str) -> None:
    content = b"".join(b"%d\tpassage %d\n" % (i, zlib.crc32(b"%d" % i)) for i in range(LINES))
    packed = bytearray(gzip.compress(content))
    if damage == "another-checksum":
        packed[-8] ^= 0xFF
    else:
        del packed[len(packed) // 2 if damage == "cut" else -4 :]
    path = tmp_path / "collection.tsv.gz"
    path.write_bytes(packed)
    with pytest.raises(InputError, match=r"collection\.tsv\.gz:\d+: the gzip data is cut off or damaged"):
        ingest(path, InputReport())

    report = InputReport("skip")
    kept = ingest(path, report)
    assert report.skipped["damaged gzip"] == 1
    assert kept == [str(i) for i in range(len(kept))]
    assert 0.3 * LINES < len(kept) < 0.7 * LINES if damage == "cut" else len(kept) == LINES


def test_a_file_that_goes_away_before_it_is_read_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(GOOD)
    source = open_source(str(path), SourceOptions(), InputReport("skip"))
    path.unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl: cannot be read: No such file or directory"):
        list(source)
