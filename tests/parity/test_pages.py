"""ColQwen2, whose documents are page images, gives what transformers 4.57 gives: ids, rows, scores."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.utils import logging as transformers_logging

from colbert_rerank.checkpoints import Choices, load_checkpoint, page_network
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import UsageError
from colbert_rerank.maxsim import reference
from ingest.sources.pages import ImageFile
from tests.parity.cases import HERE, Rows, row_errors, score_scale

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = HERE / "checkpoints" / "colqwen2"
PAGES = HERE / "pages"
ROW_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4
# By the image processor's resizing: with PIL as here, and with torchvision, whose pixels are the same where nothing is
# resized.
GOLDENS = {"colqwen2_pil": ["a_exact", "b_rounded", "c_shrunk"], "colqwen2_v4": ["a_exact"]}


class Golden(NamedTuple):
    """What a peer made of the checkpoint: of all texts, and of the pages that it reads as we do."""

    record: dict[str, Any]
    queries: Rows
    pages: Rows
    scores: npt.NDArray[np.float64]

    @property
    def texts(self) -> list[str]:
        return [record["text"] for record in self.record["queries"]]

    @property
    def images(self) -> list[ImageFile]:
        return [ImageFile(PAGES / record["text"]) for record in self.record["documents"]]


def read(name: str) -> Golden:
    record = json.loads((HERE / "golden" / f"{name}.json").read_text(encoding="utf-8"))
    kept = [i for i, page in enumerate(record["documents"]) if page["name"] in GOLDENS[name]]
    assert len(kept) == len(GOLDENS[name])
    scores = np.array(record["scores"])[:, kept]
    with np.load(HERE / "golden" / f"{name}.npz") as archive:
        queries = [archive[f"queries:{i}"] for i in range(len(record["queries"]))]
        pages = [archive[f"documents:{i}"] for i in kept]
    record["documents"] = [record["documents"][i] for i in kept]
    return Golden(record, queries, pages, scores)


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(request.param)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(str(FOLDER), device="cpu")


def test_it_was_recorded_from_these_files(golden: Golden) -> None:
    for name, digest in golden.record["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    for page in golden.record["documents"]:
        assert hashlib.sha256((PAGES / page["text"]).read_bytes()).hexdigest() == page["sha256"], page["name"]


def test_ids(golden: Golden, encoder: Encoder) -> None:
    for record, tokens in zip(golden.record["queries"], encoder.tokenize_queries(golden.texts), strict=True):
        assert (tokens.ids, tokens.attended) == (record["ids"], record["attended"]), record["name"]
    reader = encoder.checkpoint.reader
    assert reader is not None
    for record, image in zip(golden.record["documents"], golden.images, strict=True):
        page = reader.read(image.open())
        assert page.ids.tolist() == reader.ids(image.size()) == record["ids"], record["name"]
        assert [1, *page.grid] == record["image_grid_thw"], record["name"]
        assert page.patches.double().mean().item() == pytest.approx(record["pixel_values_mean"], abs=1e-6)
        assert page.patches.double().std().item() == pytest.approx(record["pixel_values_std"], abs=1e-6)


def test_rows(golden: Golden, encoder: Encoder) -> None:
    got: list[Any] = [*encoder.encode_queries(golden.texts), *encoder.encode_pages(golden.images)]
    records = golden.record["queries"] + golden.record["documents"]
    for record, rows, want in zip(records, got, golden.queries + golden.pages, strict=True):
        assert row_errors(rows, want).max() <= ROW_TOLERANCE, record["name"]


def test_scores(golden: Golden, encoder: Encoder) -> None:
    assert score_errors(golden, encoder).max() <= SCORE_TOLERANCE


def test_scores_that_hardly_vary_could_not_fail() -> None:
    scores = read("colqwen2_pil").scores
    assert np.ptp(scores, axis=1).min() / score_scale(scores) > 100 * SCORE_TOLERANCE


def score_errors(golden: Golden, encoder: Encoder) -> npt.NDArray[np.float64]:
    queries, pages = encoder.encode_queries(golden.texts), encoder.encode_pages(golden.images)
    got = np.array([[reference.maxsim(q, p) for p in pages] for q in queries])
    errors: npt.NDArray[np.float64] = np.abs(got - golden.scores) / score_scale(golden.scores)
    return errors


def one_row_of_positions(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """As transformers 5 numbers the tokens of a page."""
    monkeypatch.setattr(page_network, "positions", lambda page, *_: torch.arange(len(page.ids)).expand(3, -1))
    return encoder


def no_padding_tokens(encoder: Encoder, _: pytest.MonkeyPatch) -> Encoder:
    spec = encoder.checkpoint.spec
    assert len(spec.query.suffix_ids) == 10
    return with_query(encoder, suffix_ids=())


def no_prompt_of_texts(encoder: Encoder, _: pytest.MonkeyPatch) -> Encoder:
    assert encoder.checkpoint.spec.query.prompt
    return with_query(encoder, prompt="")


def no_prompt_of_pages(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(page_network, "BEFORE", "")
    monkeypatch.setattr(page_network, "AFTER", "")
    return Encoder.load(str(FOLDER), device="cpu")


def no_normalisation(encoder: Encoder, _: pytest.MonkeyPatch) -> Encoder:
    checkpoint = encoder.checkpoint
    assert checkpoint.spec.normalize
    return Encoder.load(replace(checkpoint, spec=replace(checkpoint.spec, normalize=False)), device="cpu")


def no_bias(encoder: Encoder, _: pytest.MonkeyPatch) -> Encoder:
    head = copy.deepcopy(encoder.checkpoint.head)
    head.get_parameter("bias").data.zero_()
    return Encoder.load(replace(encoder.checkpoint, head=head), device="cpu")


def with_query(encoder: Encoder, **changes: object) -> Encoder:
    spec = encoder.checkpoint.spec
    spoilt = replace(spec, query=replace(spec.query, **changes))  # type: ignore[arg-type]
    return replace(encoder, checkpoint=replace(encoder.checkpoint, spec=spoilt))


@pytest.mark.parametrize(
    "spoil",
    [one_row_of_positions, no_padding_tokens, no_prompt_of_texts, no_prompt_of_pages, no_normalisation, no_bias],
    ids=lambda f: f.__name__,
)
def test_what_is_wrong_is_seen(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Encoder, pytest.MonkeyPatch], Encoder]
) -> None:
    errors = score_errors(read("colqwen2_pil"), spoil(encoder, monkeypatch))
    assert errors.max(axis=0).min() > 10 * SCORE_TOLERANCE, "on each page"


def test_positions_in_one_row_are_seen_in_the_rows(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("colqwen2_pil")
    got = one_row_of_positions(encoder, monkeypatch).encode_pages(golden.images)
    assert min(row_errors(rows, want).max() for rows, want in zip(got, golden.pages, strict=True)) > 1e-3


def test_rows_of_a_page_do_not_depend_on_its_mates(encoder: Encoder) -> None:
    images = read("colqwen2_pil").images
    alone = [encoder.encode_pages([page])[0] for page in images]
    for rows, others in zip(alone, encoder.encode_pages(images), strict=True):
        assert np.array_equal(rows, others)
    for rows, others in zip(alone, encoder.encode_pages(images[::-1])[::-1], strict=True):
        assert np.array_equal(rows, others)
    assert encoder.encode_pages([]) == []


def test_texts_as_documents_are_a_choice(encoder: Encoder) -> None:
    texts = read("colqwen2_pil").texts
    with pytest.raises(UsageError, match="its documents are page images, not texts"):
        encoder.encode_documents(texts)
    willing = Encoder.load(str(FOLDER), device="cpu", choices=Choices(text_documents=True))
    assert willing.checkpoint.assumed["documents"].startswith("texts")
    assert willing.tokenize_documents(texts) == encoder.tokenize_queries(texts)
    for rows, want in zip(willing.encode_documents(texts), encoder.encode_queries(texts), strict=True):
        assert row_errors(rows.astype(np.float32), want).max() <= ROW_TOLERANCE


def test_a_model_of_texts_reads_no_pages(tiny_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="its documents are texts; it reads no page images"):
        tiny_encoder.encode_pages([ImageFile(PAGES / "a_exact.png")])


def test_transformers_says_nothing_on_loading_it(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    assert before[0] <= logging.WARNING, "it would say nothing anyway"
    library, listener = logging.getLogger("transformers"), Listener()
    library.addHandler(listener)
    try:
        load_checkpoint(str(FOLDER))
    finally:
        library.removeHandler(listener)
    assert said == []
    assert capsys.readouterr() == ("", "")
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
