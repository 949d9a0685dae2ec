"""The pipeline: vectors first, what is unchanged left alone, what is refused counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import BulkError, BulkFailure, InputError, StoreMismatchError
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Manifest, Store
from colbert_rerank.types import Document, Origin, Query
from ingest.first_stage import FirstStage, Posting
from ingest.pipeline import IngestReport, ingest
from ingest.validation import InputReport
from tests.tiny import tiny_checkpoint, tiny_weights

RECIPE = Recipe(("text",))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(str(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))), device="cpu")


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{i}", {"text": text}, where=f"line {i}") for i, text in enumerate(texts)]


def run(docs: Sequence[Document] | Iterator[Document], folder: Path, encoder: Encoder, **more: object) -> IngestReport:
    report = IngestReport(InputReport())
    arguments: dict[str, object] = {"recipe": RECIPE, **more}
    ingest(docs, folder, encoder, report=report, **arguments)  # type: ignore[arg-type]
    return report


class Recording:
    """A first stage that looks, at every post, whether the vectors are there already; refuses what it is told to."""

    origin = Origin("opensearch", "fake", "u1")

    def __init__(self, folder: Path, refuse: Sequence[str] = ()) -> None:
        self.folder, self.refuse, self.posted = folder, refuse, list[str]()

    def post(self, postings: Sequence[Posting], content: int) -> None:
        ids = [p.doc_id for p in postings]
        assert Store.open(self.folder).lookup(ids).found.all(), "vectors before postings"
        self.posted += [i for i in ids if i not in self.refuse]
        failures = [BulkFailure(i, 400, "no") for i in ids if i in self.refuse]
        if failures:
            raise BulkError(failures)

    def finish(self) -> None:
        pass


def test_changed_documents_are_encoded_again_and_the_others_left_alone(tmp_path: Path, encoder: Encoder) -> None:
    assert run(documents("one fish", "two fish", "red fish"), tmp_path / "s", encoder).encoded == 3
    report = run(documents("one fish", "blue whale", "red fish"), tmp_path / "s", encoder)
    assert (report.encoded, report.unchanged) == (1, 2)
    store = Store.open(tmp_path / "s")
    assert len(store) == 3
    (want,) = encoder.encode_tokens(encoder.tokenize_documents(["blue whale"]), "float16")
    assert store.gather(["d1"]).values.tobytes() == want.tobytes(), "the newest wins"
    index = Bm25Index.open_for(tmp_path / "s", store.manifest)
    hits = {q: [d.doc_id for d in next(index.search([Query("", q)], 10))] for q in ("whale", "two")}
    assert hits == {"whale": ["d1"], "two": []}


def test_an_input_error_keeps_everything_before_it(tmp_path: Path, encoder: Encoder) -> None:
    docs = documents("good", "also good", "", "never read")
    with pytest.raises(InputError, match="line 2"):
        run(docs, tmp_path / "s", encoder)
    store = Store.open(tmp_path / "s")
    assert sorted(store.index.ids()) == ["d0", "d1"]
    assert not store.manifest.complete


def test_refused_documents_are_named_and_all_others_posted(tmp_path: Path, encoder: Encoder) -> None:
    first: FirstStage = Recording(tmp_path / "s", refuse=["d1"])
    with pytest.raises(BulkError, match="'d1': 400 no"):
        run(documents("a b", "c d", "e f"), tmp_path / "s", encoder, first_stage=first)
    again = Recording(tmp_path / "s")
    report = run(documents("a b", "c d", "e f"), tmp_path / "s", encoder, first_stage=again)
    assert (report.encoded, report.unchanged) == (0, 3)
    assert again.posted == ["d0", "d1", "d2"], "what was not known to be posted is posted again"
    once_more = Recording(tmp_path / "s")
    run(documents("a b", "c d", "e f"), tmp_path / "s", encoder, first_stage=once_more)
    assert once_more.posted == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": Recipe(("title", "text"))}, "fields"),
        ({"dtype": "float32"}, "float32"),
        ({"origin": Origin("opensearch", "other", "u2")}, "other"),
    ],
    ids=["fields", "dtype", "index"],
)
def test_what_a_store_was_not_made_with_is_refused(
    change: dict[str, object], named: str, tmp_path: Path, encoder: Encoder
) -> None:
    run(documents("a b"), tmp_path / "s", encoder)
    before = Store.open(tmp_path / "s").manifest
    with pytest.raises(StoreMismatchError, match=named):
        run(documents("a b"), tmp_path / "s", encoder, **change)
    assert Store.open(tmp_path / "s").manifest == before


def test_another_model_is_refused_with_both_sides(tmp_path: Path, encoder: Encoder) -> None:
    run(documents("a b"), tmp_path / "s", encoder)
    other = Encoder.load(str(tiny_checkpoint(tmp_path / "other", tiny_weights(1))), device="cpu")
    with pytest.raises(StoreMismatchError, match=r"tensors: the store has .* this run"):
        run(documents("a b"), tmp_path / "s", other)


def test_an_empty_source_makes_an_empty_store(tmp_path: Path, encoder: Encoder) -> None:
    assert run([], tmp_path / "s", encoder).encoded == 0
    assert len(Store.open(tmp_path / "s")) == 0


def test_provenance_is_recorded(tmp_path: Path, encoder: Encoder) -> None:
    run(documents("a b"), tmp_path / "s", encoder)
    manifest: Manifest = Store.open(tmp_path / "s").manifest
    assert manifest.provenance["device"] == "cpu"
    assert manifest.provenance["torch"]
