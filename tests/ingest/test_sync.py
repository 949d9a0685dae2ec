"""A store that has drifted from its index is told apart, and brought in step, on a real node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import opensearchpy
import pytest

from colbert_rerank import binding
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, StoreMismatchError, UsageError
from colbert_rerank.opensearch import connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store, layout
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import Document, Query
from ingest import first_stage, pipeline, sync, upkeep
from ingest.alias import Alias
from ingest.drift import Drift
from ingest.pipeline import IngestReport
from ingest.sources.opensearch import OpenSearchSource
from ingest.sync import SyncReport
from ingest.validation import InputReport
from mappings import index_body
from tests.cli.terminal import invoke
from tests.collection import assert_same_documents, documents
from tests.ingest.test_upkeep import flip_in
from tests.server.indices import make_index, put_documents
from tests.server.rest import call
from tests.tiny import tiny_checkpoint

RECIPE = Recipe(("text",))
TEXTS = {d.doc_id: {"text": d.fields["text"], "views": 0} for d in documents(60)}
IDS = list(TEXTS)
NEW = {f"new {i}": {"text": f"{d.fields['text']} and more"} for i, d in enumerate(documents(8))}


@pytest.fixture
def client(opensearch_url: str) -> Iterator[opensearchpy.OpenSearch]:
    with connect(Connection(opensearch_url)) as opened:
        yield opened


@pytest.fixture
def folder(
    tmp_path: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The store of an index of three shards, in step."""
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 700})
    make_index(opensearch_url, index_name, settings={"number_of_shards": 3})
    put_documents(opensearch_url, index_name, TEXTS)
    make_store(tmp_path / "store", OpenSearchSource(client, index_name), tiny_encoder)
    return tmp_path / "store"


def make_store(folder: Path, index: OpenSearchSource, encoder: Encoder) -> Store:
    pipeline.ingest(
        index,
        folder,
        encoder,
        recipe=RECIPE,
        report=IngestReport(InputReport("skip")),
        index=index,
        index_name=index.name,
    )
    return Store.open(folder)


def in_step(folder: Path, index: OpenSearchSource, encoder: Encoder, **options: Any) -> SyncReport:
    report = SyncReport()
    sync.sync(folder, lambda: encoder, index, report=report, **options)
    return report


def assert_clean(folder: Path, index: OpenSearchSource, encoder: Encoder) -> None:
    """By the audit, and by a store that is made of the index anew."""
    found = sync.audit(folder, index)
    assert found.clean, found
    store = Store.open(folder)
    assert store.manifest.complete
    assert_same_documents(store, make_store(folder.with_name(f"{folder.name} again"), index, encoder))


def drift(url: str, index: str) -> Drift:
    """Change an index in every way; what an audit is to find."""
    put_documents(url, index, {i: {"text": TEXTS[i]["text"], "views": 7} for i in IDS[:10]})
    put_documents(url, index, {i: {"text": f"{TEXTS[i]['text']} changed"} for i in IDS[10:15]})
    put_documents(url, index, {i: {"text": " "} for i in IDS[15:17]})
    put_documents(url, index, {"nothing": {"text": ""}, **{i: NEW[i] for i in list(NEW)[:4]}})
    delete(url, index, IDS[20:26])
    found = Drift(same=60 - 17 - 6, rewritten=10, missing=list(NEW)[:4], stale=IDS[10:15])
    found.orphaned = [*IDS[15:17], *IDS[20:26]]
    found.unusable["empty text"] = 3
    return found


def delete(url: str, index: str, ids: list[str]) -> None:
    answer = call(url, "POST", f"/{index}/_bulk?refresh=true", [{"delete": {"_id": i}} for i in ids])
    assert not answer.json()["errors"], answer.body


def in_order(found: Drift) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, list) else value for name, value in vars(found).items()}


def test_an_audit_tells_what_has_drifted_and_changes_nothing(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    index = OpenSearchSource(client, index_name)
    assert in_order(sync.audit(folder, index)) == in_order(Drift(same=60))
    expected = drift(opensearch_url, index_name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert in_order(sync.audit(folder, index)) == in_order(expected)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("reindexed", [False, True], ids=["the same index", "a reindex"])
def test_one_sync_brings_in_step_what_has_drifted_and_drifts(
    folder: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    tiny_encoder: Encoder,
    reindexed: bool,
) -> None:
    """Documents are changed, deleted and added while it runs, between two units, in every slice."""
    if reindexed:  # into another number of shards, after which the old index is gone
        old, index_name = index_name, f"{index_name}-again"
        make_index(opensearch_url, index_name, settings={"number_of_shards": 2})
        client.reindex(body={"source": {"index": old}, "dest": {"index": index_name}}, params={"refresh": "true"})
        assert call(opensearch_url, "DELETE", f"/{old}").status == 200
    index = OpenSearchSource(client, index_name)
    drift(opensearch_url, index_name)
    meanwhile: Iterator[Callable[[], None]] = iter(
        [
            lambda: put_documents(opensearch_url, index_name, {i: {"text": f"meanwhile {i}"} for i in IDS[8:13]}),
            lambda: delete(opensearch_url, index_name, [*IDS[30:34], next(iter(NEW))]),
            lambda: put_documents(opensearch_url, index_name, {i: NEW[i] for i in list(NEW)[4:]}),
            lambda: put_documents(opensearch_url, index_name, {IDS[20]: {"text": "back again"}}),
        ]
    )
    during = 0

    def change(report: IngestReport) -> None:
        nonlocal during
        if change_now := next(meanwhile, None):
            change_now()
            during += 1

    report = in_step(folder, index, tiny_encoder, progress=change, allow_other_index=reindexed)
    assert during == 4
    assert report.passes > 1
    assert report.last.clean
    assert_clean(folder, index, tiny_encoder)
    again = in_step(folder, index, tiny_encoder)
    assert (again.passes, again.ingest.encoded, again.buried) == (1, 0, 0)


def test_texts_of_what_was_only_rewritten_are_read_once(
    folder: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = OpenSearchSource(client, index_name)
    put_documents(opensearch_url, index_name, {i: {**TEXTS[i], "views": 1} for i in IDS})
    read: list[int] = []
    fetch = OpenSearchSource.fetch

    def counted(self: OpenSearchSource, ids: Sequence[str]) -> Iterator[Document]:
        read.append(len(ids))
        return fetch(self, ids)

    monkeypatch.setattr(OpenSearchSource, "fetch", counted)
    before = Store.open(folder).manifest
    in_step(folder, index, tiny_encoder)
    assert sum(read) == 60
    assert Store.open(folder).manifest.segments == before.segments, "no vector was written anew"
    read.clear()
    assert sync.audit(folder, index).clean
    assert read == []
    put_documents(opensearch_url, index_name, {i: {**TEXTS[i], "views": 2} for i in IDS[:3]})
    assert sync.audit(folder, index).rewritten == 60
    assert read == [3]
    (folder / "versions.npz").write_bytes((folder / "versions.npz").read_bytes()[:200])
    read.clear()
    assert sync.audit(folder, index).clean, "it is only slower without"
    assert sum(read) == 60


def test_a_store_that_filled_its_index(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    opener = first_stage.opensearch(client, index_name, index_body(RECIPE.fields))
    report = IngestReport(InputReport())
    pipeline.ingest(documents(30), tmp_path / "store", tiny_encoder, recipe=RECIPE, report=report, first_stage=opener)
    index = OpenSearchSource(client, index_name)
    assert in_order(sync.audit(tmp_path / "store", index)) == in_order(Drift(rewritten=30))
    delete(opensearch_url, index_name, IDS[:2])
    assert in_step(tmp_path / "store", index, tiny_encoder).buried == 2
    assert_clean(tmp_path / "store", index, tiny_encoder)


def test_an_interrupted_sync_is_gone_on_with(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    index = OpenSearchSource(client, index_name)
    put_documents(opensearch_url, index_name, {i: {"text": f"{TEXTS[i]['text']} changed"} for i in IDS[:40]})
    report = SyncReport()

    def interrupt(done: IngestReport) -> None:
        if done.encoded >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync.sync(folder, lambda: tiny_encoder, index, report=report, progress=interrupt)
    assert not Store.open(folder).manifest.complete
    stored = report.ingest.committed
    assert stored >= 8
    assert len(sync.audit(folder, index).stale) == 40 - stored
    assert in_step(folder, index, tiny_encoder).ingest.encoded == 40 - stored
    assert_clean(folder, index, tiny_encoder)


def test_an_index_that_never_rests_is_left_after_some_passes(
    folder: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, number = OpenSearchSource(client, index_name), iter(range(1000))
    refresh = OpenSearchSource.refresh

    def restless(self: OpenSearchSource) -> None:
        put_documents(opensearch_url, index_name, {IDS[0]: {"text": f"version {next(number)}"}})
        refresh(self)

    monkeypatch.setattr(OpenSearchSource, "refresh", restless)
    report = in_step(folder, index, tiny_encoder)
    assert report.passes == sync.PASSES
    assert report.last.stale == [IDS[0]]
    monkeypatch.undo()
    assert_clean(folder, index, tiny_encoder)


def test_an_index_made_again_whose_numbers_are_the_same(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """Each document has the sequence number that it had in the old index, and some have another text."""
    assert call(opensearch_url, "DELETE", f"/{index_name}").status == 200
    make_index(opensearch_url, index_name, settings={"number_of_shards": 3})
    changed = {i: {"text": f"{TEXTS[i]['text']} changed"} for i in IDS[:5]}
    put_documents(opensearch_url, index_name, {**TEXTS, **changed})
    index = OpenSearchSource(client, index_name)
    with pytest.raises(StoreMismatchError, match=r"belongs to OpenSearch index .* pass --allow-other-index"):
        sync.audit(folder, index)
    with pytest.raises(StoreMismatchError, match="pass --allow-other-index"):
        in_step(folder, index, tiny_encoder)
    found = sync.audit(folder, index, allow_other_index=True)
    assert (sorted(found.stale), found.rewritten) == (sorted(IDS[:5]), 55)
    assert in_step(folder, index, tiny_encoder, allow_other_index=True).ingest.encoded == 5
    assert_clean(folder, index, tiny_encoder)
    put_documents(opensearch_url, index_name, {IDS[7]: {"text": "another"}})
    assert sync.audit(folder, index).stale == [IDS[7]]


@pytest.mark.parametrize("emptied", ["no document", "no text"])
def test_a_store_is_not_emptied_unasked(
    folder: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    tiny_encoder: Encoder,
    emptied: str,
) -> None:
    before = Store.open(folder).manifest
    assert before.complete
    if emptied == "no document":
        delete(opensearch_url, index_name, IDS)
    else:
        put_documents(opensearch_url, index_name, {i: {"body": "of another name"} for i in IDS})
    with pytest.raises(UsageError, match=r"all of the store would be deleted"):
        in_step(folder, OpenSearchSource(client, index_name), tiny_encoder)
    assert Store.open(folder).manifest == before


def test_blue_and_green(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """Until the switch searches by the alias are what they were, and from then on those of the other index."""
    name, green = f"{index_name}-alias", f"{index_name}-green"
    actions = [{"add": {"index": index_name, "alias": name}}]
    assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    make_index(opensearch_url, green)
    put_documents(opensearch_url, green, {**TEXTS, IDS[0]: {"text": "tides and moons", "views": 0}})
    delete(opensearch_url, green, IDS[50:])
    put_documents(opensearch_url, green, {"green": {"text": "tides of the moon", "views": 0}})
    index, alias = OpenSearchSource(client, green), Alias(client, name)

    def found() -> list[str]:
        reranker = Reranker(Store.open(folder), tiny_encoder, missing="error")
        (ranking,) = reranker.run(
            [Query("", "tides of the moon")], OpenSearchCandidates(client, name, fields=["text"]), 50
        )
        return [f"{d.doc_id} {d.score}" for d in ranking.ranked]

    old = Store.open(folder)
    before, interrupted = found(), 0

    def look(report: IngestReport) -> None:
        nonlocal interrupted
        assert found() == before
        if report.encoded and not interrupted:
            interrupted += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_step(folder, index, tiny_encoder, allow_other_index=True, progress=look, index_name=name)
    assert found() == before
    assert sync.audit(folder, OpenSearchSource(client, index_name)).clean
    report = in_step(folder, index, tiny_encoder, allow_other_index=True, progress=look, index_name=name)
    assert interrupted
    assert report.ingest.encoded < 2, "what was encoded before the interrupt is kept"
    with pytest.raises(StoreMismatchError):
        found()  # for that moment, and never a wrong score
    assert alias.switch(green)
    assert not alias.switch(green)
    after = found()
    assert after != before
    assert any(line.startswith("green ") for line in after)
    assert call(opensearch_url, "GET", f"/_alias/{name}").json() == {green: {"aliases": {name: {}}}}
    assert_clean(folder, index, tiny_encoder)
    assert old.gather(IDS).found.all(), "who has the old generation open still has it"
    assert old.refresh().manifest.origin == index.origin
    assert not (folder / "manifest.next.json").exists()


def test_an_alias_that_cannot_be_switched(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    for number in (1, 2):
        make_index(opensearch_url, f"{index_name}-{number}")
        actions = [{"add": {"index": f"{index_name}-{number}", "alias": f"{index_name}-both"}}]
        assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    for name, message in (
        (f"{index_name}-both", "is no alias of a single index"),
        (f"{index_name}-1", "has no alias"),
        (f"{index_name}-none", "has no alias"),
        (f"{index_name}-b*", "is no alias of a single index"),
    ):
        with pytest.raises(UsageError, match=message):
            Alias(client, name)


def test_what_has_no_index_of_its_own(tmp_path: Path, client: opensearchpy.OpenSearch, tiny_encoder: Encoder) -> None:
    report = IngestReport(InputReport())
    pipeline.ingest(documents(3), tmp_path / "store", tiny_encoder, recipe=RECIPE, report=report)
    with pytest.raises(UsageError, match="its index is the one beside it"):
        sync.check_kind(Store.open(tmp_path / "store"))


def test_many_deletions_have_to_be_allowed(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    index = OpenSearchSource(client, index_name)
    delete(opensearch_url, index_name, IDS[1:])
    with pytest.raises(UsageError, match=r"59 of the 60 documents of the store are not in .* pass --allow-deletions"):
        in_step(folder, index, tiny_encoder)
    assert len(Store.open(folder)) == 60
    assert in_step(folder, index, tiny_encoder, allow_deletions=True).buried == 59
    assert_clean(folder, index, tiny_encoder)


def test_documents_of_indices_that_are_not_reached_are_not_deleted(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    names = [f"{index_name}-{number}" for number in range(3)]
    for number, name in enumerate(names):
        make_index(opensearch_url, name)
        put_documents(opensearch_url, name, {i: TEXTS[i] for i in IDS[20 * number : 20 * number + 20]})
    folder = tmp_path / "store"

    def source(name: str) -> OpenSearchSource:
        return OpenSearchSource(client, name, qualified_ids=True)

    make_store(folder, source(f"{index_name}-*"), tiny_encoder)
    assert len(sync.audit(folder, source(names[2])).orphaned) == 40
    with pytest.raises(UsageError, match=rf"belongs to {names[0]}, {names[1]}, too.* pass --allow-deletions"):
        in_step(folder, source(names[2]), tiny_encoder)
    assert call(opensearch_url, "POST", f"/{names[1]}/_close").status == 200
    with pytest.raises(UsageError, match=f"belongs to {names[1]}, too"):
        in_step(folder, source(f"{index_name}-*"), tiny_encoder)
    assert len(Store.open(folder)) == 60
    assert call(opensearch_url, "DELETE", f"/{names[1]}").status == 200
    assert in_step(folder, source(f"{index_name}-*"), tiny_encoder, allow_deletions=True).buried == 20
    assert sync.audit(folder, source(f"{index_name}-*")).clean
    assert in_step(folder, source(names[2]), tiny_encoder, allow_deletions=True).buried == 20  # it is to go
    origin = Store.open(folder).manifest.origin
    assert origin
    assert origin.name == names[2]


def test_an_alias_of_several_indices(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """Documents at the same place of their indices are not taken for each other, wherever a page ends."""
    for name, ids in (("a", IDS[:31]), ("b", IDS[:17])):
        make_index(opensearch_url, f"{index_name}-{name}")
        put_documents(opensearch_url, f"{index_name}-{name}", {i: TEXTS[i] for i in ids})
        actions = [{"add": {"index": f"{index_name}-{name}", "alias": index_name}}]
        assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    index = OpenSearchSource(client, index_name, qualified_ids=True, page_docs=7)
    folder = tmp_path / "store"
    make_store(folder, index, tiny_encoder)
    assert sync.audit(folder, index).same == 48
    put_documents(opensearch_url, f"{index_name}-a", NEW)
    delete(opensearch_url, f"{index_name}-b", IDS[:5])
    report = in_step(folder, index, tiny_encoder)
    assert (report.ingest.encoded, report.buried) == (len(NEW), 5)
    assert_clean(folder, index, tiny_encoder)
    assert len(Store.open(folder)) == 48 + len(NEW) - 5


def test_what_a_document_was_encoded_from_may_be_unknown(
    folder: Path, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """As a repair leaves it: the vectors may be of another text, whatever the sequence number says."""
    index = OpenSearchSource(client, index_name)
    (segment, *_) = Store.open(folder).segments
    flip_in(folder / layout.SEGMENTS / segment.entry.file, layout.CONTENT_HASHES)
    upkeep.repair(folder)
    assert all(s and s.content_hash == UNKNOWN for s in Store.open(folder).describe(IDS))
    assert sorted(sync.audit(folder, index).stale) == sorted(IDS)
    with pytest.raises(StoreMismatchError, match="it is not known what they were encoded from"):
        binding.check_copy(Store.open(folder), index)
    assert in_step(folder, index, tiny_encoder).ingest.encoded == 60
    assert_clean(folder, index, tiny_encoder)


def test_each_of_several_indices_is_compared_by_itself(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """One that was made again of other documents is not hidden by the many of the others."""
    for part, ids in (("a", IDS[:50]), ("b", IDS[50:52])):
        make_index(opensearch_url, f"{index_name}-{part}")
        put_documents(opensearch_url, f"{index_name}-{part}", {i: TEXTS[i] for i in ids})

    def source() -> OpenSearchSource:
        return OpenSearchSource(client, f"{index_name}-*", qualified_ids=True)

    store = make_store(tmp_path / "store", source(), tiny_encoder)
    for text, message in (("another", "of 2 sampled documents only 0"), ("", "")):
        assert call(opensearch_url, "DELETE", f"/{index_name}-b").status == 200
        make_index(opensearch_url, f"{index_name}-b")
        put_documents(opensearch_url, f"{index_name}-b", {i: {"text": text} if text else TEXTS[i] for i in IDS[50:52]})
        if message:
            with pytest.raises(StoreMismatchError, match=message):
                binding.check_copy(store, source())
        else:
            binding.check_copy(store, source())


def test_a_filtered_alias_of_several_indices(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """What the alias does not show is no part of what is compared, fetched or kept."""
    for part in "ab":
        make_index(opensearch_url, f"{index_name}-{part}")
        put_documents(opensearch_url, f"{index_name}-{part}", {i: {**TEXTS[i], "views": i} for i in IDS[:10]})
        alias = {"index": f"{index_name}-{part}", "alias": index_name}
        actions = [{"add": {**alias, "filter": {"terms": {"views.keyword": IDS[:6]}}}}]
        assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    index, folder = OpenSearchSource(client, index_name, qualified_ids=True), tmp_path / "store"
    assert len(make_store(folder, index, tiny_encoder)) == 12
    put_documents(opensearch_url, f"{index_name}-a", {IDS[0]: {**TEXTS[IDS[0]], "views": "hidden"}})
    assert sync.audit(folder, index).orphaned == [f"{index_name}-a/{IDS[0]}"]
    assert in_step(folder, index, tiny_encoder).buried == 1
    assert_clean(folder, index, tiny_encoder)


def test_a_data_stream_that_rolls_over_meanwhile(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    template = {"index_patterns": [index_name], "data_stream": {}}
    assert call(opensearch_url, "PUT", f"/_index_template/{index_name}", template).status == 200
    try:
        put_in_stream(opensearch_url, index_name, IDS[:5])
        index, folder = OpenSearchSource(client, index_name, qualified_ids=True), tmp_path / "store"
        make_store(folder, index, tiny_encoder)
        put_in_stream(opensearch_url, index_name, IDS[5:8])

        def roll_over(report: IngestReport) -> None:
            if report.encoded == 3 and not rolled:
                rolled.append(call(opensearch_url, "POST", f"/{index_name}/_rollover").status)
                put_in_stream(opensearch_url, index_name, IDS[8:10])

        rolled: list[int] = []
        report = in_step(folder, index, tiny_encoder, progress=roll_over)
        assert (rolled, report.ingest.encoded, report.last.documents, report.last.clean) == ([200], 5, 10, True)
        origin = Store.open(folder).manifest.origin
        assert origin
        assert len(origin.name.split(",")) == 2
    finally:
        call(opensearch_url, "DELETE", f"/_data_stream/{index_name}")
        call(opensearch_url, "DELETE", f"/_index_template/{index_name}")


def put_in_stream(url: str, name: str, ids: Sequence[str]) -> None:
    for doc_id in ids:
        body = {"@timestamp": "2026-11-27T00:00:00Z", **TEXTS[doc_id]}
        assert call(url, "PUT", f"/{name}/_create/{doc_id}?refresh=true", body).status == 201


def test_a_model_that_does_not_fit_changes_nothing(
    folder: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    make_index(opensearch_url, f"{index_name}-copy")
    put_documents(opensearch_url, f"{index_name}-copy", {**TEXTS, **NEW})
    before = Store.open(folder).manifest

    def lost() -> Encoder:
        raise CheckpointError("lost")

    copy = OpenSearchSource(client, f"{index_name}-copy")
    with pytest.raises(CheckpointError, match="lost"):
        sync.sync(folder, lost, copy, allow_other_index=True, report=SyncReport())
    assert Store.open(folder).manifest == before
    in_step(folder, copy, tiny_encoder, allow_other_index=True)
    assert_clean(folder, copy, tiny_encoder)


def test_a_number_of_another_shard_is_not_taken_for_the_same(
    tmp_path: Path, opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, tiny_encoder: Encoder
) -> None:
    """By custom routing an id comes to stand on another shard, whose numbers are counted by themselves."""
    make_index(opensearch_url, index_name, settings={"number_of_shards": 5})
    put_documents(opensearch_url, index_name, {"a": TEXTS[IDS[0]]}, routing="1")
    folder, index = tmp_path / "store", OpenSearchSource(client, index_name)
    make_store(folder, index, tiny_encoder)
    assert sync.audit(folder, index).rewritten == 1, "the text is read"
    assert call(opensearch_url, "DELETE", f"/{index_name}/_doc/a?routing=1&refresh=true").status == 200
    put_documents(opensearch_url, index_name, {"a": {"text": "another"}}, routing="2")
    assert sync.audit(folder, index).stale == ["a"]
    in_step(folder, index, tiny_encoder)
    assert_clean(folder, index, tiny_encoder)


def test_a_copy_that_lags_behind_says_nothing(
    folder: Path,
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = {d.doc_id: d for d in OpenSearchSource(client, index_name)}
    put_documents(opensearch_url, index_name, {IDS[0]: {"text": "another"}})
    monkeypatch.setattr(OpenSearchSource, "fetch", lambda self, ids: [old[i] for i in ids])
    found = sync.audit(folder, OpenSearchSource(client, index_name))
    assert (found.same, found.rewritten, found.stale, found.moved, found.clean) == (59, 0, [], 1, False)


def twice(send: Callable[..., object]) -> Callable[..., object]:
    def sent(**request: Any) -> object:
        send(**request)
        return send(**request)

    return sent


def test_an_alias_that_was_switched_meanwhile(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for colour in ("blue", "green", "purple"):
        make_index(opensearch_url, f"{index_name}-{colour}")
    name = f"{index_name}-alias"

    def stand_for(index: str, **more: object) -> None:
        actions = [{"add": {"index": index, "alias": name, **more}}]
        answer = call(opensearch_url, "POST", "/_aliases", {"actions": actions})
        assert answer.status == 200, answer.body

    stand_for(f"{index_name}-blue")
    alias = Alias(client, name)
    assert call(opensearch_url, "DELETE", f"/{index_name}-blue/_alias/{name}").status == 200
    stand_for(f"{index_name}-purple")
    assert alias.switch(f"{index_name}-green")
    assert [*call(opensearch_url, "GET", f"/_alias/{name}").json()] == [f"{index_name}-green"]
    # an answer is lost, and what was asked for is asked for again
    with monkeypatch.context() as patched:
        patched.setattr(client.indices, "update_aliases", twice(client.indices.update_aliases))
        assert alias.switch(f"{index_name}-blue")
    assert [*call(opensearch_url, "GET", f"/_alias/{name}").json()] == [f"{index_name}-blue"]
    stand_for(f"{index_name}-blue", is_write_index=True)
    assert alias.switch(f"{index_name}-green")
    found = call(opensearch_url, "GET", f"/_alias/{name}").json()
    assert found == {f"{index_name}-green": {"aliases": {name: {"is_write_index": True}}}}
    stand_for(f"{index_name}-green", filter={"match_all": {}})
    with pytest.raises(UsageError, match="has filter, by which searches see other documents"):
        Alias(client, name)


# The commands


def test_audit_and_sync_as_their_users_call_them(tmp_path: Path, opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name)
    put_documents(opensearch_url, index_name, TEXTS)
    model, store, server = tiny_checkpoint(tmp_path / "model"), tmp_path / "store", ("--opensearch", opensearch_url)
    source = f"opensearch:{index_name}"
    invoke("ingest", source, "--fields", "text", "--store", store, "--model", model, *server).check()
    whole = invoke("audit", "--store", store, *server).check()
    assert whole.err.splitlines()[-1] == f"{store}: 60 documents in the index, 0 missing, 0 stale, 0 orphaned"
    drift(opensearch_url, index_name)
    found = invoke("audit", "--store", store, *server)
    assert found.status == 3
    assert {f"missing {i}" for i in list(NEW)[:4]} < {*found.out.splitlines()}
    assert "59 documents in the index, 4 missing, 5 stale, 8 orphaned, 3 with nothing to encode" in found.err
    facts = json.loads(invoke("audit", "--store", store, "--json", *server).out)
    assert (facts["clean"], sorted(facts["stale"]), facts["rewritten"]) == (False, sorted(IDS[10:15]), 10)
    done = invoke("sync", "--store", store, *server).check()
    assert "9 documents encoded (4 were missing, 5 stale), 8 deleted; 59 are in the index" in done.err
    assert "3 documents of the index have nothing to encode: empty text" in done.err
    invoke("audit", "--store", store, *server).check()

    green, alias = f"{index_name}-green", f"{index_name}-alias"
    make_index(opensearch_url, green)
    put_documents(opensearch_url, green, {**TEXTS, IDS[0]: {"text": "of the green index"}})
    refused = invoke("sync", "--store", store, "--index", green, *server)
    assert "pass --allow-other-index" in refused.error
    assert "needs the index that the alias is to stand for" in invoke("sync", "--store", store, "--switch", alias).error
    switched = ("sync", "--store", store, "--index", green, "--switch", alias, *server)
    assert f"has no alias '{alias}'" in invoke(*switched).error
    actions = [{"add": {"index": index_name, "alias": alias}}]
    assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    make_index(opensearch_url, f"{index_name}-others")
    others = [{"add": {"index": f"{index_name}-others", "alias": f"{alias}-others"}}]
    assert call(opensearch_url, "POST", "/_aliases", {"actions": others}).status == 200
    assert "others search by it" in invoke(*(f"{alias}-others" if a == alias else a for a in switched)).error
    assert f"{alias} stands for {green} now" in invoke(*switched).check().err
    assert call(opensearch_url, "PUT", f"/{green}/_settings", {"index.blocks.read_only": True}).status == 200
    assert f"{alias} stands for {green} already" in invoke(*switched).check().err
    assert call(opensearch_url, "PUT", f"/{green}/_settings", {"index.blocks.read_only": False}).status == 200
    none = invoke("sync", "--store", store, "--model", tmp_path / "no model", "--json", *server).check()
    facts = json.loads(none.out)
    assert (facts["clean"], facts["encoded"], facts["deleted"], facts["documents"]) == (True, 0, 0, 60)
    rerank = invoke("rerank", TEXTS[IDS[0]]["text"], "--store", store, "--missing", "error", *server)
    rerank.check()  # by the alias, which the store remembers
    invoke("audit", "--store", store, *server).check()


def test_an_alias_that_may_not_be_changed(
    tmp_path: Path, opensearch_url: str, index_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed before the store goes over; or, where it may not be any more by then, the same command goes on."""
    green, alias = f"{index_name}-green", f"{index_name}-alias"
    for name in (index_name, green):
        make_index(opensearch_url, name)
        put_documents(opensearch_url, name, TEXTS)
    actions = [{"add": {"index": index_name, "alias": alias}}]
    assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    model, store, server = tiny_checkpoint(tmp_path / "model"), tmp_path / "store", ("--opensearch", opensearch_url)
    source = f"opensearch:{index_name}"
    invoke("ingest", source, "--fields", "text", "--store", store, "--model", model, *server).check()

    def read_only(name: str, on: bool) -> None:
        body = {"index.blocks.read_only": on}
        assert call(opensearch_url, "PUT", f"/{name}/_settings", body).status == 200

    command = ("sync", "--store", store, "--index", green, "--switch", alias, *server)
    for name in (index_name, green):
        read_only(name, True)
        refused = invoke(*command)
        assert refused.status == 1
        assert "read-only" in refused.error
        assert (origin := Store.open(store).manifest.origin)
        assert origin.name == index_name
        read_only(name, False)
    with monkeypatch.context() as patched:
        patched.setattr(Alias, "check", lambda self, index: read_only(green, True))
        refused = invoke(*command)
    assert f"belongs to {green} now, and the alias {alias} is not known to" in refused.err
    assert (origin := Store.open(store).manifest.origin)
    assert origin.name == green
    read_only(green, False)
    assert f"{alias} stands for {green} now" in invoke(*command).check().err
    invoke("rerank", TEXTS[IDS[0]]["text"], "--store", store, "--missing", "error", *server).check()
    # its owner lets it stand for something else
    make_index(opensearch_url, f"{index_name}-others")
    actions = [
        {"remove": {"index": green, "alias": alias}},
        {"add": {"index": f"{index_name}-others", "alias": alias}},
    ]
    assert call(opensearch_url, "POST", "/_aliases", {"actions": actions}).status == 200
    back = ("sync", "--store", store, "--index", index_name, "--switch", alias, *server)
    assert "others search by it" in invoke(*back).error


def test_a_store_with_its_index_beside_it_has_nothing_to_audit(tmp_path: Path) -> None:
    model, store = tiny_checkpoint(tmp_path / "model"), tmp_path / "store"
    source = tmp_path / "corpus.jsonl"
    source.write_text(json.dumps({"_id": "a", "text": "tides"}), encoding="utf-8")
    invoke("ingest", source, "--store", store, "--model", model).check()
    for command in ("audit", "sync"):
        refused = invoke(command, "--store", store, "--opensearch", "http://127.0.0.1:1")
        assert "follows the store by itself" in refused.error
