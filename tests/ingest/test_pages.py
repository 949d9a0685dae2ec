"""Page images as documents: files and PDF pages, in a store and beside a first stage, for a model that reads them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colbert_rerank.checkpoints import Choices
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, InputError, MissingDependencyError, StoreMismatchError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.recipe import PAGE_DIGEST, Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.types import Query
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.sources.pages import ImageFile
from ingest.validation import InputReport
from tests.cli.terminal import invoke
from tests.collection import bm25_of
from tests.pages import IDS, MODEL, NAMES, PARITY, make_pages

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(pages=True)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(str(MODEL), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_pages(tmp_path / "pages")


def store_of(folder: Path, store: Path, encoder: Encoder, report: IngestReport | None = None) -> Store:
    report = report or IngestReport(InputReport())
    source = open_source(str(folder), SourceOptions(), report.input)
    ingest(source, store, encoder, recipe=RECIPE, report=report, codec="float32")
    return Store.open(store)


def test_each_page_is_a_document(folder: Path) -> None:
    source = open_source(str(folder), SourceOptions(), InputReport())
    assert source.kind == "pages"
    found = list(source)
    assert [d.doc_id for d in found] == IDS
    assert [d.fields["page"] for d in found] == [1, 2, 3, 1]
    assert [d.fields["title"] for d in found] == ["report"] * 3 + ["scan"]
    assert len({d.fields[PAGE_DIGEST] for d in found}) == 4
    (alone,) = open_source(str(folder / "sub" / "scan.png"), SourceOptions(), InputReport())
    assert alone.doc_id == "scan.png"
    assert alone.fields[PAGE_DIGEST] == found[-1].fields[PAGE_DIGEST]


def test_each_page_of_a_tiff_file_is_a_document(tmp_path: Path, encoder: Encoder) -> None:
    pages = [Image.open(PARITY / "pages" / f"{name}.png").convert("RGB") for name in NAMES]
    pages[0].save(tmp_path / "fax.tiff", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tiff")
    found = list(open_source(str(tmp_path), SourceOptions(), InputReport()))
    assert [d.doc_id for d in found] == ["fax.tiff#1", "fax.tiff#2", "fax.tiff#3", "one.tiff"]
    assert [d.page.size() for d in found if d.page] == [page.size for page in [*pages, pages[0]]]
    rows = encoder.encode_pages([d.page for d in found if d.page])
    for got, name in zip(rows, [*NAMES, NAMES[0]], strict=True):
        want = encoder.encode_pages([ImageFile(PARITY / "pages" / f"{name}.png")])[0]
        np.testing.assert_array_equal(got, want)


def test_pages_are_ranked_by_their_own_vectors(folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    store = store_of(folder, tmp_path / "store", encoder)
    assert store.manifest.recipe == RECIPE
    alone = open_source(str(folder / "sub" / "scan.png"), SourceOptions(), InputReport())
    (page,) = encoder.encode_tokens(encoder.tokenize_pages([d.page for d in alone if d.page]))
    np.testing.assert_array_equal(store.gather(["sub/scan.png"]).values, page)
    ranked = Reranker(store, encoder).rerank("who wrote the book", [(i, 0.0) for i in IDS])
    (query,) = encoder.encode_queries(["who wrote the book"])
    for document in ranked:
        want = reference.maxsim(query, store.gather([document.doc_id]).values)
        assert document.score == pytest.approx(want, abs=1e-4)
    assert len({d.score for d in ranked}) == 4
    (found,) = bm25_of(store).search([Query("1", "scan")], 5)
    assert [d.doc_id for d in found] == ["sub/scan.png"]


def test_only_what_has_changed_is_read_again(folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    before = store_of(folder, tmp_path / "store", encoder)
    report = IngestReport(InputReport())
    store_of(folder, tmp_path / "store", encoder, report)
    assert (report.encoded, report.unchanged) == (0, 4)
    Image.open(PARITY / "pages" / "a_exact.png").save(folder / "sub" / "scan.png")
    report = IngestReport(InputReport())
    after = store_of(folder, tmp_path / "store", encoder, report)
    assert (report.encoded, report.unchanged) == (1, 3)
    for doc_id in IDS:
        same = before.gather([doc_id]).values.tobytes() == after.gather([doc_id]).values.tobytes()
        assert same == (doc_id != "sub/scan.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("z.pdf", b"%PDF-1.4 nothing"),
        ("z.png", b"\x89PNG\r\n\x1a\nnothing"),
        ("z.png", (PARITY / "pages" / "c_shrunk.png").read_bytes()[:400]),
        ("z.jpg", b"text"),
        ("z.pdf", b""),
    ],
    ids=["damaged-pdf", "damaged-png", "cut-png", "no-jpg", "empty-pdf"],
)
def test_a_file_that_is_no_page_is_refused_by_name(
    folder: Path, tmp_path: Path, encoder: Encoder, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: cannot be read as a page image: "):
        store_of(folder, tmp_path / "store", encoder)
    assert len(Store.open(tmp_path / "store")) == 4, "what came before it is stored"
    report = IngestReport(InputReport("skip"))
    store_of(folder, tmp_path / "store", encoder, report)
    assert report.input.skipped == {"unreadable page": 1}


def test_a_page_that_the_model_does_not_read_is_refused_by_name(folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    Image.new("RGB", (2000, 4)).save(folder / "thin.png")
    with pytest.raises(InputError, match=r"thin\.png: the model reads no page of 2000 x 4 pixels"):
        store_of(folder, tmp_path / "store", encoder)
    report = IngestReport(InputReport("skip"))
    store = store_of(folder, tmp_path / "store", encoder, report)
    assert report.input.skipped == {"unreadable page": 1}
    assert (report.input.accepted, len(store)) == (4, 4)


def test_a_folder_of_pages_and_other_files_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("notes")
    with pytest.raises(UsageError, match=r"holds pages, such as report\.pdf, and other files\. Choose --format pages"):
        open_source(str(folder), SourceOptions(), InputReport())
    assert len(list(open_source(str(folder), SourceOptions(format="pages"), InputReport()))) == 4


def test_other_ways_to_read_a_page_are_another_document_identity(
    folder: Path, tmp_path: Path, encoder: Encoder
) -> None:
    store_of(folder, tmp_path / "store", encoder)
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    other = Encoder.load(str(model), device="cpu")
    with pytest.raises(StoreMismatchError, match=r"page_settings: the store has .*image_mean"):
        store_of(folder, tmp_path / "store", other)
    Reranker(Store.open(tmp_path / "store"), other).rerank("a query reads no page", [(IDS[0], 0.0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [(None, "preprocessor_config.json is missing"), ({"patch_size": 0}, "pages cannot be read as preprocessor_config")],
    ids=["missing", "nonsense"],
)
def test_a_model_that_does_not_say_how_to_read_pages_is_refused(
    folder: Path, tmp_path: Path, settings: dict[str, int] | None, message: str
) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    path = model / "preprocessor_config.json"
    known = json.loads(path.read_text())
    path.unlink()
    if settings:
        path.write_text(json.dumps(known | settings))
    with pytest.raises(CheckpointError, match=message):
        store_of(folder, tmp_path / "store", Encoder.load(str(model), device="cpu"))


def test_texts_and_pages_are_told_apart(folder: Path, tmp_path: Path, tiny: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "1", "text": "tides"}\n')
    failed = invoke("ingest", corpus, "--store", tmp_path / "a", "--model", MODEL)
    assert failed.status == 2
    assert failed.error.startswith(f"{corpus}: the model reads page images, and this holds none")
    assert not (tmp_path / "a").exists()
    failed = invoke("ingest", folder, "--store", tmp_path / "b", "--model", tiny)
    assert f"{folder}: the model reads texts, and this holds none" in failed.error
    assert not (tmp_path / "b").exists()
    done = invoke("ingest", corpus, "--store", tmp_path / "c", "--model", MODEL, "--text-documents").check()
    assert "1 document" in done.err
    assert invoke("rerank", "tides", "--store", tmp_path / "c").check().out
    failed = invoke("ingest", corpus, "--store", tmp_path / "d", "--model", tiny, "--text-documents")
    assert "its documents are texts, so there is no choice of them" in failed.error
    assert Choices(text_documents=True).stated() == {"text_documents": True}


def test_a_store_of_pages_is_no_store_of_texts(folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    store = store_of(folder, tmp_path / "store", encoder)
    with pytest.raises(UsageError, match="the store is of page images, which an index cannot give back"):
        Reranker(store, encoder, missing="encode")
    query = encoder.encode_queries(["tides"])[0]
    with pytest.raises(UsageError, match="score_texts: the store is of page images"):
        Reranker(store, encoder).score_texts(query, ["a text that a caller sends along"])
    read = Encoder.load(str(MODEL), device="cpu", choices=Choices(text_documents=True))
    with pytest.raises(StoreMismatchError, match="pages: the store has True, this run none"):
        ingest([], store.folder, read, recipe=Recipe(), report=IngestReport(InputReport()), codec="float32")


def test_options_of_other_sources_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--id-field does not apply to pages"):
        open_source(str(folder), SourceOptions(id_field="x"), InputReport())
    with pytest.raises(UsageError, match="pages are read from files, not from stdin"):
        open_source("-", SourceOptions(format="pages"), InputReport())


@pytest.mark.parametrize(("package", "name"), [("PIL", "pillow"), ("pypdfium2", "pypdfium2")])
def test_what_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        list(open_source(str(folder), SourceOptions(), InputReport()))
