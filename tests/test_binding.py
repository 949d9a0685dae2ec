"""Ids like "1" are everywhere: what belongs to another store is refused, and what is damaged is called so."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from colbert_rerank.binding import check_origin, joined, named, same
from colbert_rerank.candidates import bm25_files
from colbert_rerank.candidates.bm25 import Bm25Index, open_beside
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreMismatchError
from colbert_rerank.store import Manifest, Store, Stored
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.reader import Verify
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import OPENSEARCH, QUALIFIED, Document, Origin, Query
from ingest import upkeep
from ingest.first_stage import Posting
from tests.collection import FakeFirstStage, FakeIndex, bm25_of, documents, ingested, numbered

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 30
OTHER = FakeIndex.COPY


@pytest.fixture(scope="module")
def rivers(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    """30 paragraphs with the ids "1" to "30"."""
    return ingested(tmp_path_factory.mktemp("rivers") / "store", tiny_encoder, numbered(documents(COUNT)))


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    """30 other paragraphs with the same ids."""
    return ingested(tmp_path_factory.mktemp("cities") / "store", tiny_encoder, numbered(documents(COUNT, COUNT)))


@pytest.fixture
def broken(rivers: Store, tmp_path: Path) -> Store:
    """A copy of a store that the test may break."""
    return Store.open(shutil.copytree(rivers.folder, tmp_path / "store"))


def test_the_ids_do_overlap(rivers: Store, cities: Store) -> None:
    """What follows is refused by who made what alone: every id of the one is an id of the other."""
    assert sorted(rivers.index.ids()) == sorted(cities.index.ids())
    check_origin(rivers, bm25_of(rivers))
    check_origin(cities, bm25_of(cities))


def test_the_index_of_another_store_is_refused(rivers: Store, cities: Store) -> None:
    with pytest.raises(StoreMismatchError) as refusal:
        check_origin(rivers, bm25_of(cities))
    message = str(refusal.value)
    for part in (str(rivers.folder), rivers.manifest.store_id, cities.manifest.store_id, "--allow-other-index"):
        assert part in message


def test_the_index_of_another_store_put_beside_this_one_is_refused(broken: Store, cities: Store) -> None:
    shutil.rmtree(broken.folder / "bm25")
    shutil.copytree(cities.folder / "bm25", broken.folder / "bm25")
    for opened in (Bm25Index.open_for, Bm25Index.create_or_open):
        with pytest.raises(StoreMismatchError, match=f"belongs to another store .{cities.manifest.store_id}"):
            opened(broken.folder, broken.manifest)


def test_an_unrelated_index_is_refused_even_when_another_is_allowed(rivers: Store, cities: Store) -> None:
    with pytest.raises(StoreMismatchError, match="of 20 sampled documents only 0 are in BM25 index 'bm25'"):
        check_origin(rivers, bm25_of(cities), allow_other_index=True)


def test_an_open_search_index_is_another_index(rivers: Store) -> None:
    copy = FakeIndex(numbered(documents(COUNT)))
    with pytest.raises(
        StoreMismatchError, match=r"made from BM25 index .* come from OpenSearch index 'copy' \(uuid uuid-2\)"
    ):
        check_origin(rivers, copy)
    assert copy.asked == [], "nothing is compared without leave"


def test_a_reindexed_copy_is_accepted_where_allowed(rivers: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "colbert_rerank.binding")
    copy = FakeIndex(numbered(documents(COUNT)))
    check_origin(rivers, copy, allow_other_index=True)
    assert len(copy.asked) == len(set(copy.asked)) == 20
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.message == (
        f"{rivers.folder}: 20 of 20 sampled documents have the text they were encoded from in OpenSearch index 'copy' "
        "(uuid uuid-2)"
    )


@pytest.mark.parametrize(("known", "accepted"), [(20, True), (19, False), (1, False)])
def test_what_was_encoded_is_known_of_some_documents_only(
    rivers: Store, monkeypatch: pytest.MonkeyPatch, known: int, accepted: bool
) -> None:
    """As after a repair. Few documents that are alike are no copy; a full sample of those that are known is as good."""
    describe = rivers.describe
    unknown = sorted(rivers.index.ids())[known:]

    def some(ids: Sequence[str]) -> Iterator[Stored | None]:
        for doc_id, stored in zip(ids, describe(ids), strict=True):
            yield stored._replace(content_hash=UNKNOWN) if stored and doc_id in unknown else stored

    monkeypatch.setattr(rivers, "describe", some)
    copy = FakeIndex(numbered(documents(COUNT)))
    if accepted:
        check_origin(rivers, copy, allow_other_index=True)
        assert len(copy.asked) == 20
        assert not {*copy.asked} & {*unknown}
    else:
        with pytest.raises(StoreMismatchError, match="it is not known what they were encoded from"):
            check_origin(rivers, copy, allow_other_index=True)


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [(0, True), (4, True), (5, False), (20, False)],
    ids=["none", "a-few", "one-too-many", "all"],
)
@pytest.mark.parametrize("how", ["gone", "other-text"])
def test_a_copy_that_has_moved_on(
    rivers: Store, caplog: pytest.LogCaptureFixture, changed: int, accepted: bool, how: str
) -> None:
    copy = FakeIndex(numbered(documents(COUNT)))
    check_origin(rivers, copy, allow_other_index=True)
    for doc_id in copy.asked[:changed]:
        if how == "gone":
            del copy.documents[doc_id]
        else:
            copy.documents[doc_id] = Document(doc_id, {"text": "edited since"})
    caplog.clear()
    if accepted:
        check_origin(rivers, copy, allow_other_index=True)
        warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == (changed > 0)
        assert all(f": {20 - changed} of 20 sampled documents have the text they" in w for w in warnings)
        return
    with pytest.raises(
        StoreMismatchError, match=f"of 20 sampled documents only {20 - changed} are in OpenSearch index"
    ):
        check_origin(rivers, copy, allow_other_index=True)


def test_fields_that_are_not_encoded_may_differ(rivers: Store) -> None:
    some = [d._replace(fields={**d.fields, "views": 3}) for d in numbered(documents(COUNT))]
    check_origin(rivers, FakeIndex(some), allow_other_index=True)


@pytest.mark.parametrize(("kept", "accepted"), [(3, True), (2, False), (0, False)], ids=["all", "two-of-three", "none"])
def test_a_small_store_is_compared_whole(tmp_path: Path, tiny_encoder: Encoder, kept: int, accepted: bool) -> None:
    some = numbered(documents(3))
    store = ingested(tmp_path / "store", tiny_encoder, some)
    copy = FakeIndex(some[:kept])
    if accepted:
        check_origin(store, copy, allow_other_index=True)
        return
    with pytest.raises(StoreMismatchError, match=f"of 3 sampled documents only {kept} are in"):
        check_origin(store, copy, allow_other_index=True)


def test_a_run_file_names_no_index_and_passes(rivers: Store) -> None:
    check_origin(rivers, FakeIndex([], origin=None))


def test_a_renamed_index_is_the_same_and_one_made_again_under_the_name_is_not(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    made = Origin("opensearch", "articles", "uuid-1")
    store = ingested(tmp_path / "store", tiny_encoder, documents(3), first_stage=FakeFirstStage(made).open)
    check_origin(store, FakeIndex([], made._replace(name="articles-2024")))
    with pytest.raises(StoreMismatchError, match=r"'articles' \(uuid uuid-1\), .* 'articles' \(uuid uuid-3\)"):
        check_origin(store, FakeIndex([], made._replace(uuid="uuid-3")))
    with pytest.raises(StoreMismatchError):
        check_origin(store, FakeIndex([], made._replace(kind="bm25")))


def test_of_several_indices_some_may_come_and_go() -> None:
    def several(**uuids: str) -> Origin:
        return Origin(QUALIFIED, ",".join(uuids), ",".join(uuids.values()))

    first = several(a="1", b="2")
    assert same(first, several(a="1", b="2", c="3"))
    assert same(first, several(b="2", c="3"))
    assert joined(first, several(b="2", c="3")) == several(a="1", b="2", c="3")
    assert not same(first, several(c="3")), "nothing says that these belong together"
    assert not same(first, several(a="1", b="9", c="3")), "b was made again"
    assert not same(first, Origin(OPENSEARCH, "a,b", "1,2"))
    one = Origin(OPENSEARCH, "a", "1")
    assert joined(one, Origin(OPENSEARCH, "renamed", "1")) == one


def test_names_of_indices() -> None:
    assert named(None) == "no index"
    assert named(Origin("opensearch", "a", "u")) == "OpenSearch index 'a' (uuid u)"
    assert named(Origin("bm25", "bm25", "u")) == "BM25 index 'bm25' (uuid u)"
    assert named(Origin("elasticsearch", "a", "u")) == "Elasticsearch index 'a' (uuid u)"
    assert named(Origin("another", "a", "u")) == "another 'a' (uuid u)"
    assert same(Origin("bm25", "a", "u"), Origin("bm25", "b", "u"))
    assert not same(Origin("bm25", "a", "u"), Origin("bm25", "a", "v"))


def test_a_store_made_with_a_server_has_no_index_beside_it(tmp_path: Path, tiny_encoder: Encoder) -> None:
    store = ingested(tmp_path / "store", tiny_encoder, documents(3), first_stage=FakeFirstStage(OTHER).open)
    with pytest.raises(StoreMismatchError, match="no embedded BM25 index: it was made with --opensearch"):
        bm25_of(store)


def test_an_index_behind_the_store_is_refused(broken: Store) -> None:
    content = broken.manifest.content
    assert content > 0
    state(broken, content=content - 1)
    with pytest.raises(IndexBehindError, match=f"behind the store .content {content - 1}, the store has {content}"):
        bm25_of(broken)


def test_an_interrupted_ingest_is_named(broken: Store) -> None:
    left = replace(broken.manifest, content=broken.manifest.content + 1, unfinished=("corpus.jsonl", "repair"))
    with pytest.raises(IndexBehindError) as refusal:
        Bm25Index.open_for(broken.folder, left)
    assert str(refusal.value).endswith(
        "; under way, or interrupted: `ingest corpus.jsonl`, `store repair`. If it is running, try again in a moment, "
        "at the latest when it has ended; if not, run it again"
    )


def test_a_search_waits_for_what_is_being_committed(
    broken: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, begun, goes_on = Bm25Index.add, threading.Event(), threading.Event()

    def held(self: Bm25Index, some: Iterable[Posting], content: int) -> None:
        begun.set()
        assert goes_on.wait(60)
        add(self, some, content)

    monkeypatch.setattr(Bm25Index, "add", held)
    with ThreadPoolExecutor() as background:
        ingest = background.submit(ingested, broken.folder, tiny_encoder, documents(3, 100))
        assert begun.wait(60)
        assert open_beside(broken)[0] is broken, "the generation before goes with the index as it still is"
        committed = Store.open(broken.folder)
        monkeypatch.setattr(bm25_files, "PATIENCE", 0.1)
        with pytest.raises(IndexBehindError, match="under way, or interrupted: `ingest`"):
            open_beside(committed)
        monkeypatch.setattr(bm25_files, "PATIENCE", 60)
        threading.Timer(0.2, goes_on.set).start()
        store, index = open_beside(committed)
        ingest.result()
    assert len(store) == len(index) == COUNT + 3


def test_a_commit_while_an_index_is_verified_does_not_put_it_behind(broken: Store, tiny_encoder: Encoder) -> None:
    """It is ahead of what was read of the store before."""
    ingested(broken.folder, tiny_encoder, documents(3, 100))
    Bm25Index.verify(broken.folder, broken.manifest)


def test_a_store_that_is_read_whole_is_read_once(broken: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many commits a search has to wait for."""
    store = Store.open(broken.folder, verify="open")
    open_for, init, opened = Bm25Index.open_for, Store.__init__, []

    def late(folder: Path, manifest: Manifest) -> Bm25Index:
        if manifest.generation < store.manifest.generation + 4:
            manifests.save(folder, manifest.next())
            raise IndexBehindError("as while another process commits")
        return open_for(folder, manifest)

    def counted(self: Store, folder: Path, manifest: Manifest, verify: Verify) -> None:
        opened.append(manifest)
        init(self, folder, manifest, verify)

    monkeypatch.setattr(Bm25Index, "open_for", late)
    monkeypatch.setattr(Store, "__init__", counted)
    found, _ = open_beside(store)
    assert (found.manifest.generation, found.verify) == (store.manifest.generation + 4, "open")
    assert len(opened) == 1


def test_a_generation_that_is_compacted_away_before_it_is_opened(
    broken: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingested(broken.folder, tiny_encoder, documents(3, 100))
    upkeep.delete(broken.folder, ["1"])
    open_for = Bm25Index.open_for

    def compacted(folder: Path, manifest: Manifest) -> Bm25Index:
        index = open_for(folder, manifest)
        upkeep.compact(folder)
        return index

    monkeypatch.setattr(Bm25Index, "open_for", compacted)
    store, index = open_beside(broken)
    assert len(store) == len(index) == COUNT + 2
    assert store.gather(["2"]).found.all()


def state(store: Store, **values: object) -> None:
    path = store.folder / "bm25" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize("lost", ["folder", "state", "older-copy"])
def test_a_lost_index_is_filled_again_by_the_same_ingest(broken: Store, tiny_encoder: Encoder, lost: str) -> None:
    """The store knows its documents as posted; they must not be left out of the new index for that."""
    before = bm25_of(broken)
    want = list(before.search([Query("", "river city")], COUNT))
    assert want[0]
    if lost == "folder":
        shutil.rmtree(broken.folder / "bm25")
    elif lost == "state":
        (broken.folder / "bm25" / "state.json").unlink()
    else:
        shutil.copytree(broken.folder / "bm25", broken.folder.parent / "older")
        more = [*numbered(documents(COUNT)), *documents(3, 100)]
        want = list(bm25_of(ingested(broken.folder, tiny_encoder, more)).search([Query("", "river city")], COUNT))
        shutil.rmtree(broken.folder / "bm25")
        shutil.copytree(broken.folder.parent / "older", broken.folder / "bm25")
    with pytest.raises(IndexBehindError if lost == "older-copy" else StoreMismatchError):
        bm25_of(Store.open(broken.folder))
    more = documents(3, 100) if lost == "older-copy" else []
    again = ingested(broken.folder, tiny_encoder, [*numbered(documents(COUNT)), *more])
    assert list(bm25_of(again).search([Query("", "river city")], COUNT)) == want
    assert len(list(bm25_of(again).fetch(again.index.ids()))) == COUNT + len(more)
    assert again.manifest.store_id == broken.manifest.store_id


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "state-cut-short": lambda folder: _cut(folder / "state.json", 10),
    "state-empty": lambda folder: _cut(folder / "state.json", 0),
    "state-not-utf-8": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe"),
    "state-a-list": lambda folder: (folder / "state.json").write_text("[]"),
    "state-without-a-key": lambda folder: (folder / "state.json").write_text('{"content": 1}'),
    "content-null": lambda folder: (folder / "state.json").write_text('{"store_id": "a", "content": null}'),
    "meta-missing": lambda folder: (folder / "meta.json").unlink(),
    "meta-cut-short": lambda folder: _cut(folder / "meta.json", 20),
    "meta-empty": lambda folder: _cut(folder / "meta.json", 0),
    "store-file-missing": lambda folder: next(folder.glob("*.store")).unlink(),
    "postings-missing": lambda folder: next(folder.glob("*.idx")).unlink(),
    "terms-empty": lambda folder: _cut(next(folder.glob("*.term")), 0),
    "postings-cut-short": lambda folder: _cut(next(folder.glob("*.idx")), 30),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_called_so(broken: Store, tiny_encoder: Encoder, damage: Callable[[Path], object]) -> None:
    folder = broken.folder / "bm25"
    damage(folder)
    with pytest.raises(
        StoreCorruptError, match=r"the BM25 index cannot be opened: .*Remove it and ingest again"
    ) as refusal:
        bm25_of(broken)
    assert str(folder) in str(refusal.value)
    with pytest.raises(StoreCorruptError):
        ingested(broken.folder, tiny_encoder, numbered(documents(COUNT)))
    shutil.rmtree(folder)  # the advice
    again = ingested(broken.folder, tiny_encoder, numbered(documents(COUNT)))
    assert len(list(bm25_of(again).fetch(again.index.ids()))) == COUNT
