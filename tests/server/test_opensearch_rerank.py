"""`colbert-rerank opensearch`: what it makes in a real OpenSearch works, replaces nothing, and goes again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch_rerank.record import Record
from colbert_rerank.opensearch_rerank.requests import Changes
from mappings import rerank_pipeline
from tests.cli.terminal import Result, invoke
from tests.server.indices import make_index, put_documents
from tests.server.node import OpenSearchNode
from tests.server.rerank_service import RerankService
from tests.server.rest import call

TRUSTED = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE = "plugins.ml_commons.connector.private_ip_enabled"
DOCS = {"a": {"text": "tide"}, "bb": {"text": "tide tide"}, "ccc": {"text": "tide tide tide"}, "x": {"text": "bread"}}
FIRST, RERANKED = ["ccc", "bb", "a"], ["a", "bb", "ccc"]
TOKEN = "a-token-of-the-service-of-tests"


@pytest.fixture
def service() -> Iterator[RerankService]:
    with RerankService() as service:
        service.scores = lambda doc_id: -float(len(doc_id))
        yield service


@pytest.fixture
def node(plugins_node: OpenSearchNode) -> Iterator[OpenSearchNode]:
    """Afterwards nothing of ours may be left: a test that made something takes it away."""
    yield plugins_node
    left = [name for name in get(plugins_node, "/_search/pipeline") if name != "theirs"]
    for name in left:
        teardown(plugins_node, name).check()
    call(plugins_node.url, "DELETE", "/_search/pipeline/theirs")
    assert settings(plugins_node) == {}
    assert leftovers(plugins_node) == (0, 0)
    call(plugins_node.url, "DELETE", "/crt-*")


@pytest.fixture
def index(node: OpenSearchNode) -> str:
    make_index(node.url, "crt-in-search", DOCS)
    return "crt-in-search"


def get(node: OpenSearchNode, path: str) -> Any:
    found = call(node.url, "GET", path)
    return found.json() if found.status == 200 else {}


def settings(node: OpenSearchNode) -> dict[str, Any]:
    found = get(node, "/_cluster/settings?flat_settings=true")
    return {name: value for level in ("persistent", "transient") for name, value in found[level].items()}


def leftovers(node: OpenSearchNode) -> tuple[int, int]:
    """How many models and connectors there are."""
    everything: dict[str, Any] = {"query": {"match_all": {}}}
    found = [call(node.url, "POST", f"/_plugins/_ml/{what}/_search", everything) for what in ("models", "connectors")]
    models, connectors = (f.json()["hits"]["total"]["value"] for f in found)
    return models, connectors


def setup(node: OpenSearchNode, service: RerankService, index: str, *options: object) -> Result:
    given = ("--opensearch", node.url, "--url", service.url, "--store", "s", "--index", index)
    return invoke("opensearch", "setup", *given, *options)


def teardown(node: OpenSearchNode, name: str = "colbert", *options: str) -> Result:
    return invoke("opensearch", "teardown", "--opensearch", node.url, "--name", name, *options)


def doctor(node: OpenSearchNode, index: str, *options: object) -> dict[str, list[str]]:
    """What is wrong, and what is otherwise said, by check."""
    done = invoke(
        "opensearch", "doctor", "--opensearch", node.url, "--index", index, "--query", "tide", "--json", *options
    )
    found = json.loads(done.out)
    assert done.status == int(any(finding["state"] == "wrong" for finding in found))
    by_state: dict[str, list[str]] = {"wrong": [], "ok": [], "note": []}
    for finding in found:
        by_state[finding["state"]].append(f"{finding['check']}: {finding['message']}")
    return by_state


def printed_search(done: Result) -> tuple[str, dict[str, Any]]:
    """The search that setup prints, for tides."""
    request, _, body = done.check().out.partition("\n")
    return request.removeprefix("POST "), json.loads(body.replace("how do tides work", "tide"))


def ids(node: OpenSearchNode, search: tuple[str, dict[str, Any]], field: str = "_id") -> list[str]:
    path, body = search
    found = call(node.url, "POST", path, body)
    assert found.status == 200, found.body
    return [hit["fields"][field][0] for hit in found.json()["hits"]["hits"]]


def test_a_search_is_re_ranked_by_id(node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path) -> None:
    service.token = TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    done = setup(node, service, index, "--token-file", tmp_path / "token", "--deadline-ms", 250)
    assert TOKEN not in done.out + done.err
    path, body = printed_search(done)
    service.asked.clear()
    assert ids(node, (path, body | {"size": 2})) == RERANKED[:2]
    (asked,) = service.asked
    assert asked == ("/v1/stores/s/rerank", TOKEN, "tide", FIRST, 250), "all candidates, in first-stage order"
    plain = {name: value for name, value in body.items() if name != "ext"}
    before = call(node.url, "POST", f"/{index}/_search", plain).json()["hits"]["hits"]
    after = call(node.url, "POST", path, body).json()["hits"]["hits"]
    assert {h["fields"]["_id"][0]: h["sort"][0] for h in after} == {h["fields"]["_id"][0]: h["sort"][0] for h in before}
    pipeline = get(node, "/_search/pipeline/colbert")
    assert TOKEN not in json.dumps(pipeline)


def test_a_second_time_changes_nothing(node: OpenSearchNode, service: RerankService, index: str) -> None:
    setup(node, service, index).check()
    before = get(node, "/_search/pipeline"), settings(node), leftovers(node)
    done = setup(node, service, index).check()
    assert "are kept" in done.err
    assert (get(node, "/_search/pipeline"), settings(node), leftovers(node)) == before


def test_settings_are_added_to_and_taken_back(node: OpenSearchNode, service: RerankService, index: str) -> None:
    theirs = ["^https://models\\.example/.*$"]
    call(node.url, "PUT", "/_cluster/settings", {"transient": {TRUSTED: theirs}})
    try:
        setup(node, service, index).check()
        port = service.url.rpartition(":")[2]
        assert settings(node) == {TRUSTED: [*theirs, f"^http://127\\.0\\.0\\.1:{port}/.*$"], PRIVATE: "true"}
        teardown(node).check()
        assert settings(node) == {TRUSTED: theirs}
    finally:
        call(node.url, "PUT", "/_cluster/settings", {"transient": {TRUSTED: None}})


def test_the_built_in_list_is_kept_and_comes_back(node: OpenSearchNode, service: RerankService, index: str) -> None:
    builtin = get(node, "/_cluster/settings?include_defaults=true&flat_settings=true")["defaults"][TRUSTED]
    setup(node, service, index).check()
    assert settings(node)[TRUSTED][:-1] == builtin
    teardown(node).check()
    assert settings(node) == {}


def test_others_need_stays(node: OpenSearchNode, service: RerankService, index: str) -> None:
    with RerankService() as second:
        setup(node, service, index).check()
        setup(node, service, index, "--name", "same").check()
        other = setup(node, second, index, "--name", "other").check()
        teardown(node, "colbert").check()
        assert len([pattern for pattern in settings(node)[TRUSTED] if "127" in pattern]) == 2
        teardown(node, "same").check()
        assert len([pattern for pattern in settings(node)[TRUSTED] if "127" in pattern]) == 1
        second.scores = lambda doc_id: -float(len(doc_id))
        assert ids(node, printed_search(other)) == RERANKED, "a private address may still be called"


def test_another_token_or_address_takes_another_connector(
    node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    setup(node, service, index).check()
    service.token = TOKEN
    assert doctor(node, index, "--token-file", tmp_path / "token")["wrong"]
    done = setup(node, service, index, "--token-file", tmp_path / "token")
    assert ids(node, printed_search(done)) == RERANKED
    assert leftovers(node) == (1, 1)
    with RerankService() as second:
        done = setup(node, second, index)
        second.scores = lambda doc_id: float(len(doc_id))
        assert ids(node, printed_search(done)) == FIRST
        assert leftovers(node) == (1, 1)
        assert len([pattern for pattern in settings(node)[TRUSTED] if "127" in pattern]) == 1


def test_a_dry_run_prints_and_changes_nothing(
    node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    done = setup(node, service, index, "--dry-run", "--token-file", tmp_path / "token", "--add-alias").check()
    requests = [line for line in done.out.splitlines() if line.startswith(("PUT ", "POST ", "DELETE "))]
    assert requests == [
        "PUT /_search/pipeline/colbert",  # what is to be added to the settings
        "PUT /_cluster/settings",
        "POST /_plugins/_ml/connectors/_create",
        "POST /_plugins/_ml/models/_register?deploy=true",
        f"PUT /{index}/_mapping",
        "PUT /_search/pipeline/colbert",
    ]
    assert TOKEN not in done.out
    assert settings(node) == {}
    assert leftovers(node) == (0, 0)
    assert "doc_id" not in json.dumps(get(node, f"/{index}/_mapping"))
    setup(node, service, index).check()
    assert "DELETE /_search/pipeline/colbert" in teardown(node, "colbert", "--dry-run").check().out
    assert get(node, "/_search/pipeline/colbert")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"status": 404, "text": '{"error": "no store is called \'s\' here"}'},
            "the service has no store of this name",
        ),
        ({"status": 500, "text": "{}"}, "OpenSearch says"),
        ({"text": "not JSON"}, "OpenSearch cannot read the service's answer"),
        ({"token": TOKEN}, "the service wants a token"),
    ],
    ids=["no store", "broken", "no JSON", "no token"],
)
def test_where_it_does_not_work_nothing_stays(
    node: OpenSearchNode, service: RerankService, index: str, fault: dict[str, Any], words: str
) -> None:
    for name, value in fault.items():
        setattr(service, name, value)
    error = setup(node, service, index, "--add-alias").error
    assert words in error
    assert "taken away again" in error
    assert get(node, "/_search/pipeline") == {}
    assert "doc_id" not in json.dumps(get(node, f"/{index}/_mapping")), "which could not be taken back"


def test_what_others_made_is_left(node: OpenSearchNode, service: RerankService, index: str) -> None:
    body = {"response_processors": [{"truncate_hits": {"target_size": 1}}]}
    call(node.url, "PUT", "/_search/pipeline/theirs", body)
    assert "was not made by this command" in setup(node, service, index, "--name", "theirs", "--add-alias").error
    assert "doc_id" not in json.dumps(get(node, f"/{index}/_mapping"))
    assert "was not made by" in teardown(node, "theirs").error
    assert get(node, "/_search/pipeline/theirs")


def test_a_pipeline_that_is_a_default_is_not_removed(node: OpenSearchNode, service: RerankService, index: str) -> None:
    setup(node, service, index, "--strict").check()
    setting = {"index.search.default_pipeline": "colbert"}
    call(node.url, "PUT", f"/{index}/_settings", setting)
    assert f"{index}: searches there go through" in teardown(node).error
    assert any("is its default pipeline and fails" in line for line in doctor(node, index)["wrong"])
    call(node.url, "PUT", f"/{index}/_settings", {"index.search.default_pipeline": None})


PIPELINE = 5  # which change of a first setup it is, after the note, the settings, the connector and the model


class Broken:
    """Has the n-th change after this one fail, when it is made where it ``arrives``, and else before it is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, *, arrives: bool) -> None:
        self._n, self._count, self._send, self._arrives = n, 0, Changes.send, arrives
        monkeypatch.setattr(Changes, "send", lambda changes, *request: self.send(changes, *request))

    def send(self, changes: Changes, *request: Any) -> Any:
        self._count += 1
        found = self._send(changes, *request) if self._count != self._n or self._arrives else None
        if self._count == self._n:
            raise OpenSearchError("the line is down")
        return found


def cut(monkeypatch: pytest.MonkeyPatch, n: int, run: Callable[[], Result], *, arrives: bool | None = None) -> bool:
    """Whether so many changes are made by it; the line is cut at the last, which arrives unless n is odd."""
    with monkeypatch.context() as patch:
        Broken(patch, n, arrives=n % 2 == 0 if arrives is None else arrives)
        done = run()
    assert done.status == 0 or "the line is down" in done.err
    return done.status != 0


def test_a_setup_that_stops_half_way(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again in another place than before, with the line cut at each change: searches go on being re-ranked,
    and the same command ends it.
    """
    with RerankService() as second:
        second.scores = lambda doc_id: -float(len(doc_id))
        search = printed_search(setup(node, service, index))
        for n in range(1, 100):
            place = second if n % 2 else service
            if not cut(monkeypatch, n, lambda place=place: setup(node, place, index)):  # type: ignore[misc]
                break
            assert ids(node, search) == RERANKED, n
            setup(node, place, index).check()
            assert leftovers(node) == (1, 1), n
            assert len([pattern for pattern in settings(node)[TRUSTED] if "127" in pattern]) == 1, n
        assert n > 8


def test_a_first_setup_whose_pipeline_is_made_and_no_answer_comes(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cut(monkeypatch, PIPELINE, lambda: setup(node, service, index), arrives=True)
    assert get(node, "/_search/pipeline") == {}
    assert leftovers(node) == (0, 0)
    assert settings(node) == {}


def test_what_cannot_be_told_stays(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline is made, no answer comes, and then it cannot be read: it may need all that was made."""
    where = "colbert_rerank.opensearch_rerank.setup.pipeline_called"
    with monkeypatch.context() as patch:

        def down(*_: Any) -> Any:
            raise OpenSearchError("the line is still down")

        send = Changes.send

        def last(changes: Changes, *request: Any) -> Any:
            if "response_processors" in str(request):
                patch.setattr(where, down)
            return send(changes, *request)

        patch.setattr(Changes, "send", last)
        assert cut(patch, PIPELINE, lambda: setup(node, service, index), arrives=True)
    search = printed_search(setup(node, service, index))
    assert leftovers(node) == (1, 1)
    assert ids(node, search) == RERANKED


class KilledError(BaseException):
    """Which nothing catches, as a process that is killed takes nothing back."""


def test_a_setup_that_is_killed(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of its changes: teardown finds what it has left, and so does the next setup."""
    for n, end in ((n, end) for n in range(1, PIPELINE) for end in (teardown, setup)):
        with monkeypatch.context() as patch:
            made, send = iter(range(1, n)), Changes.send
            patch.setattr("colbert_rerank.opensearch_rerank.setup.ExitStack", Killed)

            def killed(changes: Changes, *request: Any, made: Any = made, send: Any = send) -> Any:
                found = send(changes, *request)
                if next(made, None) is None:
                    raise KilledError
                return found

            patch.setattr(Changes, "send", killed)
            with pytest.raises(KilledError):
                setup(node, service, index)
        if end is setup:
            assert ids(node, printed_search(setup(node, service, index))) == RERANKED
            assert leftovers(node) == (1, 1)
        teardown(node).check()
        assert leftovers(node) == (0, 0)
        assert settings(node) == {}, n


class Killed(ExitStack):
    """Undoes nothing."""

    def __exit__(self, *_: object) -> None:
        self.pop_all()


def test_two_setups_at_once(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second runs from its beginning to its end when the first has its connector, or its model."""
    for moment in ("connectors/_create", "_register"):
        with monkeypatch.context() as patch:
            send = Changes.send
            second: list[Result] = []

            def meanwhile(
                changes: Changes, *request: Any, moment: str = moment, second: list[Result] = second, send: Any = send
            ) -> Any:
                found = send(changes, *request)
                if moment in str(request) and not second:
                    second.append(Result(0, "", ""))
                    second[0] = setup(node, service, index)
                return found

            patch.setattr(Changes, "send", meanwhile)
            refused = setup(node, service, index).error
        assert "another setup" in refused
        assert ids(node, printed_search(second[0])) == RERANKED
        assert leftovers(node) == (1, 1)
        teardown(node).check()
        assert settings(node) == {}


def test_a_teardown_that_stops_half_way(
    node: OpenSearchNode, service: RerankService, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 100):
        setup(node, service, index).check()
        if not cut(monkeypatch, n, lambda: teardown(node)):
            break
        teardown(node).check()
        assert leftovers(node) == (0, 0), n
        assert settings(node) == {}, n
    assert n > 4


def test_private_addresses_are_refused_again_when_nobody_needs_them(
    node: OpenSearchNode, service: RerankService, index: str
) -> None:
    """A pipeline of ours to a public address is left, and does not know that they were allowed."""
    beside = rerank_pipeline("a-model", description=Record("a-connector", "a-model").described())
    call(node.url, "PUT", "/_search/pipeline/public", beside)
    setup(node, service, index).check()
    assert settings(node)[PRIVATE] == "true"
    teardown(node).check()
    assert settings(node) == {}
    assert [*get(node, "/_search/pipeline")] == ["public"]


def test_what_was_made_for_a_pipeline_that_others_deleted(
    node: OpenSearchNode, service: RerankService, index: str
) -> None:
    setup(node, service, index).check()
    call(node.url, "DELETE", "/_search/pipeline/colbert")
    assert f"added to {TRUSTED} and {PRIVATE}" in teardown(node).check().err
    assert leftovers(node) == (0, 0)
    setup(node, service, index).check()
    call(node.url, "DELETE", "/_search/pipeline/colbert")
    setup(node, service, index).check()
    assert leftovers(node) == (1, 1)
    call(node.url, "PUT", "/_cluster/settings", {"persistent": {TRUSTED: None, PRIVATE: None}})


def test_nothing_to_take_away(node: OpenSearchNode) -> None:
    assert "nothing to do" in teardown(node, "no-such").check().err


def test_an_alias_where_it_is_asked_for(node: OpenSearchNode, service: RerankService, index: str) -> None:
    done = setup(node, service, index, "--add-alias")
    assert get(node, f"/{index}/_mapping")[index]["mappings"]["properties"]["doc_id"] == {
        "type": "alias",
        "path": "_id",
    }
    assert ids(node, printed_search(done), "doc_id") == RERANKED


def test_one_connector_for_many_indices(node: OpenSearchNode, service: RerankService, index: str) -> None:
    make_index(node.url, "crt-second", {"a": {"text": "tide tide"}})
    both = f"{index},crt-second"
    assert "stands for 2 indices" in setup(node, service, both).error
    done = setup(node, service, both, "--qualified-ids")
    found = ids(node, printed_search(done), "qualified_id")
    assert found == ["crt-second/a", f"{index}/a", f"{index}/bb", f"{index}/ccc"]
    assert doctor(node, both)["wrong"] == []


def test_a_field_of_their_own(node: OpenSearchNode, service: RerankService) -> None:
    mappings = {"properties": {"number": {"type": "keyword"}, "text": {"type": "text"}}}
    docs = {f"row-{i}": {"number": i, "text": d["text"]} for i, d in DOCS.items()}
    make_index(node.url, "crt-numbered", docs, mappings=mappings)
    assert "there is no field 'numbr'" in setup(node, service, "crt-numbered", "--id-field", "numbr").error
    done = setup(node, service, "crt-numbered", "--id-field", "number")
    assert ids(node, printed_search(done), "number") == RERANKED
    put_documents(node.url, "crt-numbered", {"row-none": {"text": "tide"}})
    (lacking, nameless) = doctor(node, "crt-numbered")["wrong"]
    assert lacking.startswith("index: 1 documents have no field 'number'")
    assert nameless.startswith("search: 1 of 4 hits come without an id")


def test_doctor_where_all_is_well(node: OpenSearchNode, service: RerankService, index: str) -> None:
    setup(node, service, index).check()
    found = doctor(node, index)
    assert found["wrong"] == []
    assert any("ranks before and after: 'a' 3 -> 1, 'bb' 2 -> 2" in line for line in found["ok"])
    assert "service: it has vectors of all 3 candidates" in found["ok"]
    assert any("track_total_hits" in line for line in found["note"])
    shown = invoke("opensearch", "doctor", "--opensearch", node.url, "--index", index, "--query", "tide").check().out
    assert "ok     search" in shown


def test_doctor_sends_the_token_where_it_is_told_to(
    node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path
) -> None:
    """And not to whatever address the cluster names."""
    service.token = TOKEN
    given = ("--token-file", tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN)
    setup(node, service, index, *given).check()
    found = doctor(node, index, *given)
    assert service.asked[-1].token == ""
    assert "service: what it lacks it tells only with its token: --url URL --token-file FILE" in found["note"]
    found = doctor(node, index, *given, "--url", service.url)
    assert service.asked[-1].token == TOKEN
    assert "service: it has vectors of all 3 candidates" in found["ok"]
    found = doctor(node, index, *given, "--url", service.url[:-1])
    assert service.asked[-1].token == ""
    assert any(f"which is not at {service.url[:-1]}" in line for line in found["wrong"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 503, "text": '{"error": "too many requests are waiting already"}'}, "as many requests wait"),
        ({"delay": 1.5}, "did not answer within read_timeout"),
        ({"text": '{"results": []}'}, "re-ranking failed"),
        ({"text": '{"results": [{"index": 0, "relevance_score": 1.5}]}'}, "answered fewer documents"),
        ({"token": TOKEN}, "the connector has none or a wrong one"),
        ({"lacking": {"bb"}}, "no vectors of 1 of 3 candidates, such as 'bb'"),
    ],
    ids=["busy", "slow", "nothing", "too few", "token", "missing"],
)
def test_doctor_finds_it_and_searches_go_on(
    node: OpenSearchNode, service: RerankService, index: str, fault: dict[str, Any], words: str
) -> None:
    search = printed_search(setup(node, service, index, "--read-timeout", 1))
    for name, value in fault.items():
        setattr(service, name, value)
    assert any(words in line for line in doctor(node, index)["wrong"])
    assert ids(node, search) == (["a", "ccc", "bb"] if "lacking" in fault else FIRST)


def test_a_store_of_another_index(node: OpenSearchNode, service: RerankService, index: str) -> None:
    """Which has the same ids, as all have that are numbered."""
    make_index(node.url, "crt-cakes", DOCS)
    uuid = get(node, f"/{index}/_settings")[index]["settings"]["index"]["uuid"]
    service.stores = [{"name": "s", "origin": {"kind": "opensearch", "name": index, "uuid": uuid}}]
    assert f"store: 's' was made from {index}" in setup(node, service, index).check().err
    assert f"store: 's' was made from {index}" in doctor(node, index)["ok"]
    refused = setup(node, service, "crt-cakes").error
    assert f"'s' was made from OpenSearch index '{index}' (uuid {uuid})" in refused
    (wrong,) = doctor(node, "crt-cakes")["wrong"]
    assert wrong.startswith("store: the store 's' was made from")
    assert "unless one is a copy" in setup(node, service, "crt-cakes", "--allow-other-index").check().err
    assert doctor(node, "crt-cakes", "--allow-other-index")["wrong"] == []
    call(node.url, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": "crt-alias"}}]})
    assert doctor(node, "crt-alias")["wrong"] == []
    service.stores[0]["origin"] = None
    assert "made from no index" in setup(node, service, index).error
    service.stores = []
    assert "the service does not say: it answers 404" in setup(node, service, index).check().err


def test_what_is_not_scored_is_not_called_re_ranked(
    node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path
) -> None:
    """The answer keeps the first order with scores that mean nothing, and so is one that OpenSearch is content with."""
    service.token, service.needs = TOKEN, 5
    (tmp_path / "token").write_text(TOKEN)
    given = ("--token-file", tmp_path / "token")
    setup(node, service, index, *given, "--deadline-ms", 1).check()
    found = doctor(node, index)
    assert any("not re-ranked: the service scored none of the hits" in line for line in found["wrong"])
    assert not any("a shorter deadline" in line for line in found["note"]), "it has one"
    found = doctor(node, index, *given, "--url", service.url)
    assert "service: its answer is degraded: the deadline passed" in found["wrong"]
    assert service.asked[-1].deadline_ms == 1, "as the connector says"


def test_a_token_that_is_not_the_service_s(
    node: OpenSearchNode, service: RerankService, index: str, tmp_path: Path
) -> None:
    service.token = TOKEN
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "other").write_text(f"another-{TOKEN}")
    setup(node, service, index, "--token-file", tmp_path / "token").check()
    found = doctor(node, index, "--token-file", tmp_path / "other", "--url", service.url)
    assert found["wrong"] == ["service: the token given here is none of its own: --token-file FILE"]
    assert any("the service takes it" in line for line in found["note"])


def test_a_setup_that_makes_nothing_takes_nothing_away(
    node: OpenSearchNode, service: RerankService, index: str
) -> None:
    setup(node, service, index).check()
    service.status, service.text = 500, "{}"
    assert "taken away" not in setup(node, service, index).error
    assert leftovers(node) == (1, 1)


def test_more_hits_than_a_search_may_ask_for(node: OpenSearchNode, service: RerankService, index: str) -> None:
    refused = setup(node, service, index, "--oversample", 2000).error
    assert f"--oversample 2000: {index}: 2000 times 10 hits" in refused
    assert "index.max_result_window, 10,000" in refused
    setup(node, service, index, "--oversample", 20).check()
    call(node.url, "PUT", f"/{index}/_settings", {"index.max_result_window": 100})
    (beyond, fails) = doctor(node, index)["wrong"]
    assert beyond.startswith(f"index: {index}: 20 times 10 hits")
    assert fails.startswith("search: it fails, re-ranked or not: ")
    assert "Result window is too large" in fails


def test_fields_that_cannot_be_used(node: OpenSearchNode, service: RerankService) -> None:
    text = {"type": "text", "fields": {"raw": {"type": "keyword"}}}
    properties = {"text": text, "sum": {"type": "keyword", "doc_values": False}, "row": {"properties": {"id": text}}}
    mappings = {"properties": {**properties, "same": {"type": "alias", "path": "text"}}}
    make_index(node.url, "crt-fields", DOCS, mappings=mappings)
    for name in ("text", "sum", "row", "row.id", "same"):
        refused = setup(node, service, "crt-fields", "--id-field", name).error
        assert f"the field '{name}' is of type" in refused
        assert "has no doc values" in refused
    assert "there is no field 'nosuch' to search" in setup(node, service, "crt-fields", "--text-field", "nosuch").error
    fields = ("--text-field", "text^2", "--text-field", "row.*", "--text-field", "same")
    setup(node, service, "crt-fields", "--id-field", "text.raw", *fields).check()
    asked = ("--opensearch", node.url, "--index", "crt-fields", "--text-field", "nosuch")
    assert "there is no field 'nosuch'" in invoke("opensearch", "doctor", *asked).error


def test_where_nothing_is_found_nothing_was_tried(node: OpenSearchNode, service: RerankService, index: str) -> None:
    setup(node, service, index).check()
    assert doctor(node, index, "--query", "zebra")["wrong"] == [
        "search: nothing is found for 'zebra', so nothing was tried: give another --query"
    ]


def test_a_service_that_is_gone(node: OpenSearchNode, index: str) -> None:
    with RerankService() as service:
        search = printed_search(setup(node, service, index))
    assert any("nothing listens there" in line for line in doctor(node, index)["wrong"])
    assert ids(node, search) == FIRST


def test_private_addresses_that_were_refused_meanwhile(
    node: OpenSearchNode, service: RerankService, index: str
) -> None:
    """A model that was deployed while they were remembers that, though it is "deployed": setup deploys it anew."""
    search = printed_search(setup(node, service, index))
    model = get(node, "/_search/pipeline/colbert")["colbert"]["response_processors"][0]["rerank"]["ml_opensearch"]
    path = f"/_plugins/_ml/models/{model['model_id']}"
    call(node.url, "PUT", "/_cluster/settings", {"persistent": {PRIVATE: False}})
    call(node.url, "POST", f"{path}/_undeploy")
    assert any("run `colbert-rerank opensearch setup` again" in line for line in doctor(node, index)["wrong"])
    call(node.url, "POST", f"{path}/_deploy")
    while get(node, path)["model_state"] != "DEPLOYED":
        time.sleep(0.1)
    assert any("refuses to call private addresses" in line for line in doctor(node, index)["wrong"])
    assert ids(node, search) == FIRST
    setup(node, service, index).check()
    assert ids(node, search) == RERANKED


def test_what_is_gone_is_made_again(node: OpenSearchNode, service: RerankService, index: str) -> None:
    assert doctor(node, index)["wrong"] == [
        "pipeline: there is none called colbert: run `colbert-rerank opensearch setup`"
    ]
    setup(node, service, index).check()
    record = json.loads(get(node, "/_search/pipeline/colbert")["colbert"]["description"].partition("follows: ")[2])
    call(node.url, "POST", f"/_plugins/_ml/models/{record['model']}/_undeploy")
    call(node.url, "DELETE", f"/_plugins/_ml/models/{record['model']}")
    assert doctor(node, index)["wrong"][0].startswith(f"model: {record['model']} is gone")
    done = setup(node, service, index)
    assert ids(node, printed_search(done)) == RERANKED
    assert leftovers(node) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "a b"), "--name 'a b': letters"),
        (("--url", "http://me:secret@host"), "no user goes into it"),
        (("--url", "http://host/${x}"), "a $ in a URL"),
        (
            ("--url", "host:80"),
            "must begin with http:// or https:// and name a host; write it like http://localhost:8080",
        ),
        (("--url", "http://host/v1/x/v1/stores/s"), "give the service's alone, http://host/v1/x"),
        (("--deadline-ms", 2000, "--read-timeout", 2), "a deadline has to be below that"),
        (("--add-alias", "--id-field", "x"), "name no other"),
        (("--add-alias", "--qualified-ids"), "name no other"),
    ],
)
def test_what_makes_no_sense(options: tuple[object, ...], message: str) -> None:
    given = ["--opensearch", "http://127.0.0.1:1", "--url", "http://host", "--store", "s", "--index", "i"]
    assert message in invoke("opensearch", "setup", *given, *options).error


@pytest.mark.own_node
def test_a_node_without_the_plugins(service: RerankService, opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name, DOCS)
    given = ("--opensearch", opensearch_url, "--index", index_name)
    refused = invoke("opensearch", "setup", *given, "--url", service.url, "--store", "s").error
    assert "opensearch-ml and opensearch-neural-search are not installed" in refused
    found = invoke("opensearch", "doctor", *given)
    assert found.status == 1
    assert "WRONG  plugins" in found.out
