"""The documented API, asked for everything that its schema allows and much that it does not: no answer is a 500."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from colbert_rerank.serve.routes import DIALECTS
from tests.collection import documents
from tests.serve.running import running

pytestmark = pytest.mark.proof

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
ids = [d.doc_id for d in documents(5)]
fields: dict[str, st.SearchStrategy[Any]] = {
    "query": st.text(max_size=20) | json_values,
    "documents": st.lists(
        st.sampled_from(ids)
        | st.text(max_size=5)
        | st.dictionaries(st.sampled_from(["id", "text", "first_stage_score", "other"]), json_values),
        max_size=5,
    )
    | json_values,
    "texts": st.lists(st.text(max_size=5), max_size=5) | json_values,
    "top_n": st.integers() | json_values,
    "deadline_ms": st.floats() | json_values,
    "missing": st.sampled_from(["first_stage", "encode", "drop", "error"]) | json_values,
    "return_documents": st.booleans() | json_values,
    "rank_fields": st.lists(st.sampled_from(["id", "text", "other"]), max_size=3) | json_values,
    "truncate": st.booleans() | json_values,
    "text_1": st.text(max_size=5) | json_values,
    "text_2": st.lists(st.text(max_size=5), max_size=3) | json_values,
}
bodies = st.fixed_dictionaries({}, optional=fields)


def test_what_the_schema_says(folder: Path) -> None:
    """Each route answers as it says that it may, whether or not it was asked as it says that it has to be."""
    with running(folder) as service:
        schema = schemathesis.openapi.from_url(f"http://{service.host}:{service.port}/openapi.json")
        routes = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        assert len(routes) == 2 * len(DIALECTS) + 9
        for route in routes:
            for mode in GenerationMode if route.method == "post" else [GenerationMode.POSITIVE]:
                check_route(route, mode)


def check_route(route: Any, mode: GenerationMode) -> None:
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=route.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # a schema cannot say that a text must not be blank, or that one of two fields has to be there
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


@pytest.mark.parametrize("prefix", ["", "/v1/stores/real"])
@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from([*DIALECTS]), body=bodies)
def test_whatever_is_sent(client: TestClient, prefix: str, path: str, body: dict[str, Any]) -> None:
    answer = client.post(prefix + path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 409, 422), answer.text
    answer.json()


@pytest.mark.parametrize("prefix", ["", "/v1/stores/real"])
@settings(max_examples=50, deadline=None)
@given(
    path=st.sampled_from([*DIALECTS]),
    body=st.binary(max_size=50),
    kind=st.sampled_from(["application/json", "text/plain", ""]),
)
def test_whatever_bytes_are_sent(client: TestClient, prefix: str, path: str, body: bytes, kind: str) -> None:
    answer = client.post(prefix + path, content=body, headers={"content-type": kind})
    assert answer.status_code in (400, 422), answer.text
