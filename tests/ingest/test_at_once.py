"""Ingests of different slices into one store at the same time end as one ingest of everything."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.opensearch import connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Store, writing
from colbert_rerank.types import Document
from ingest import first_stage, pipeline
from ingest.pipeline import IngestReport
from ingest.validation import InputReport
from mappings import index_body
from tests.cli.terminal import invoke
from tests.ingest.killing import DOCUMENTS, Victim, assert_same, corpus
from tests.server.indices import make_index
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.proof

PARTS = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """An ingest of everything by itself, which has ended."""
    folder = tmp_path_factory.mktemp("whole")
    alone = Victim(tiny_checkpoint(folder / "model"), folder / "store", str(corpus(folder)), "", "")
    alone.finish()
    return alone


def slices(whole: Victim, tmp_path: Path, url: str = "", index: str = "") -> list[Victim]:
    """Ingests of slices of the same into another store."""
    lines = Path(whole.source).read_text(encoding="utf-8").splitlines(keepends=True)
    ingests = []
    for number in range(PARTS):
        part = tmp_path / f"{number}.jsonl"
        part.write_text("".join(lines[number::PARTS]), encoding="utf-8")
        ingests.append(Victim(whole.model, tmp_path / "store", str(part), url, index))
    return ingests


def at_once(ingests: list[Victim]) -> None:
    running = [ingest.start() for ingest in ingests]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def test_with_the_index_beside_the_store(whole: Victim, tmp_path: Path) -> None:
    ingests = slices(whole, tmp_path)
    at_once(ingests)
    assert_same(ingests[0], Store.open(whole.store))
    assert Store.open(ingests[0].store).manifest.index


def test_into_opensearch(whole: Victim, tmp_path: Path, opensearch_url: str, index_name: str) -> None:
    ingests = slices(whole, tmp_path, opensearch_url, index_name)
    at_once(ingests)
    assert_same(ingests[0], Store.open(whole.store))


def test_into_an_index_of_others(tmp_path: Path, opensearch_url: str, index_name: str, tiny_encoder: Encoder) -> None:
    """What another process has put there for the same store meanwhile is no document of the owner."""
    owned = {"1": {"text": "the owner's"}}
    make_index(opensearch_url, index_name, owned, mappings={"properties": {"text": {"type": "text"}}})

    def ingest(documents: Iterator[Document]) -> IngestReport:
        report, recipe = IngestReport(InputReport("skip")), Recipe(("text",))
        with connect(Connection(opensearch_url)) as client:
            stage = first_stage.opensearch(client, index_name, index_body(("text",)), into_existing=True)
            pipeline.ingest(
                documents, tmp_path / "store", tiny_encoder, recipe=recipe, report=report, first_stage=stage
            )
        return report

    def slow() -> Iterator[Document]:
        yield Document("2", {"text": "tides"})
        assert ingest(iter([Document("3", {"text": "moon"})])).posted == 1
        yield from (Document("3", {"text": "sun"}), Document("1", {"text": "mine"}))

    report = ingest(slow())
    assert (report.input.skipped, report.committed) == ({"id taken in the index": 1}, 2)
    assert sorted(Store.open(tmp_path / "store").index.ids()) == ["2", "3"]


def test_one_of_them_is_killed(whole: Victim, tmp_path: Path) -> None:
    ingests = slices(whole, tmp_path)
    with ingests[1].start() as other:
        assert other.stdout
        other.stdout.readline()  # it has begun; one that begins alone asks no more what became of others
        ingests[0].kill(6, 0, signal.SIGKILL)
        _, errors = other.communicate(timeout=300)
        assert other.returncode == 0, errors
    store = Store.open(ingests[0].store)
    assert len(store) < DOCUMENTS
    assert store.manifest.unfinished == (ingests[0].source,)
    ingests[1].finish()  # another one, that is alone, does not bring what is missing
    assert Store.open(ingests[0].store).manifest.unfinished == (ingests[0].source,)
    at_once([ingests[0]])
    assert Store.open(ingests[0].store).manifest.complete
    assert_same(ingests[0], Store.open(whole.store))


def test_what_is_said_while_another_goes_on(tmp_path: Path) -> None:
    model, store = tiny_checkpoint(tmp_path / "model"), tmp_path / "store"
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"_id": name, "text": "tides"}), encoding="utf-8")
    invoke("ingest", tmp_path / "a.jsonl", "--store", store, "--model", model).check()
    with writing(store, Store.open(store).manifest) as other:
        other.begin()
        other.share()
        done = invoke("ingest", tmp_path / "b.jsonl", "--store", store, "--model", model).check()
        assert f"{store}: 2 documents, " in done.err
        mixed = invoke("ingest", tmp_path / "b.jsonl", "--store", store, "--model", model, "--fields", "title,body")
        assert "made with another way of making texts" in mixed.error
        rerank = invoke("rerank", "tides", "--store", store).check()
        assert "the last ingest was interrupted, is under way" in rerank.err
    assert len(Store.open(store)) == 2
