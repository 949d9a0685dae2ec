"""The official clients of the APIs that the service speaks, as their users call them, against the service as a process.

Each gives what a plain request gives, of texts at the root and of ids on a store's path; and a refusal is their own
exception. huggingface_hub has no method for re-ranking, so Text Embeddings Inference is asked through Haystack's and
LlamaIndex's clients of it, and LiteLLM's.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import haystack
import litellm
import pytest
import voyageai
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from langchain_cohere import CohereRerank
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from pydantic import SecretStr

from tests.collection import documents, queries, texts
from tests.serve.running import Running, running

TOKEN = "a-token-for-clients-of-the-tests"
QUERY, COUNT = queries(1)[0].text, 8
PAGE = Path(__file__).parents[2] / "docs" / "service.md"

pytestmark = pytest.mark.filterwarnings(
    # their connections are left to the garbage collector, which says so
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    # LiteLLM's own types, of which pydantic warns on newer Pythons
    "ignore:Items? .* using the .ReadOnly. qualifier:UserWarning",
)

Ranked = list[tuple[int, float]]
Client = Callable[[str, str, list[str], int], Ranked]
"""Asks at an address for a query and documents; the best few, as index and score."""


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """While the last of these tests is cleaned up after, and not in the midst of another's."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(folder, COLBERT_RERANK_TOKEN=TOKEN) as service:
        yield service


def base_of(service: Running, path: str = "") -> str:
    return f"http://{service.host}:{service.port}{path}"


def cohere_v1(base: str, query: str, docs: list[str], n: int) -> Ranked:
    found = cohere.Client(TOKEN, base_url=base).rerank(model="m", query=query, documents=docs, top_n=n)
    return [(r.index, r.relevance_score) for r in found.results]


def cohere_v2(base: str, query: str, docs: list[str], n: int) -> Ranked:
    found = cohere.ClientV2(TOKEN, base_url=base).rerank(model="m", query=query, documents=docs, top_n=n)
    return [(r.index, r.relevance_score) for r in found.results]


def cohere_async(base: str, query: str, docs: list[str], n: int) -> Ranked:
    async def ask() -> Any:
        async with cohere.AsyncClientV2(TOKEN, base_url=base) as client:
            return await client.rerank(model="m", query=query, documents=docs, top_n=n)

    return [(r.index, r.relevance_score) for r in asyncio.run(ask()).results]


def lite(provider: str, path: str = "") -> Client:
    def ask(base: str, query: str, docs: list[str], n: int) -> Ranked:
        given: dict[str, Any] = {"model": f"{provider}/m", "api_base": base + path, "api_key": TOKEN}
        found = litellm.rerank(query=query, documents=docs, top_n=n, **given)
        return [(r["index"], r["relevance_score"]) for r in found.results]

    return ask


def langchain(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = CohereRerank(model="m", base_url=base, cohere_api_key=SecretStr(TOKEN), top_n=n)
    found = client.compress_documents([LangChainDocument(page_content=text) for text in docs], query)
    return [(docs.index(d.page_content), d.metadata["relevance_score"]) for d in found]


def nodes(docs: list[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in docs]


def llama_cohere(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = LlamaCohereRerank(model="m", api_key=TOKEN, base_url=base, top_n=n)
    found = client.postprocess_nodes(nodes(docs), query_str=query)
    return [(docs.index(f.node.get_content()), f.score or 0.0) for f in found]


def llama_tei(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = TextEmbeddingInference(base_url=f"{base}/tei", auth_token=f"Bearer {TOKEN}", top_n=n)
    found = client.postprocess_nodes(nodes(docs), query_str=query)
    return [(docs.index(f.node.get_content()), f.score or 0.0) for f in found]


def haystack_cohere(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = CohereRanker(model="m", api_base_url=base, api_key=Secret.from_token(TOKEN), top_k=n)
    return of_haystack(client, query, docs)


def haystack_tei(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = HuggingFaceTEIRanker(url=f"{base}/tei", token=Secret.from_token(TOKEN), top_k=n)
    return of_haystack(client, query, docs)


def of_haystack(client: Any, query: str, docs: list[str]) -> Ranked:
    found = client.run(query=query, documents=[haystack.Document(content=text) for text in docs])["documents"]
    return [(docs.index(d.content), d.score) for d in found]


def voyage(base: str, query: str, docs: list[str], n: int) -> Ranked:
    client = voyageai.Client(api_key=TOKEN, base_url=f"{base}/voyage/v1")  # type: ignore[attr-defined]
    return [(r.index, r.relevance_score) for r in client.rerank(query, docs, model="m", top_k=n).results]


CLIENTS: dict[str, Client] = {
    "cohere v1": cohere_v1,
    "cohere v2": cohere_v2,
    "cohere v2, async": cohere_async,
    "litellm, cohere": lite("cohere"),
    "litellm, voyage": lite("voyage", "/voyage"),
    "litellm, infinity": lite("infinity", "/infinity"),
    "litellm, hosted_vllm": lite("hosted_vllm", "/vllm"),
    "litellm, huggingface": lite("huggingface", "/tei"),
    "langchain-cohere": langchain,
    "llama-index, cohere": llama_cohere,
    "llama-index, tei": llama_tei,
    "haystack, cohere": haystack_cohere,
    "voyageai": voyage,
}
# These keep no path of an address, so that no store can be named.
ROOT_ONLY: dict[str, Client] = {"litellm, jina_ai": lite("jina_ai"), "haystack, tei": haystack_tei}
ALL = CLIENTS | ROOT_ONLY


def expected(service: Running, path: str, docs: list[str]) -> Ranked:
    status, found = service.ask({"query": QUERY, "documents": docs}, f"{path}/rerank", authorization=f"Bearer {TOKEN}")
    assert status == 200
    return [(r["index"], r["relevance_score"]) for r in found["results"]]


def same(found: Ranked, wanted: Ranked) -> bool:
    return [i for i, _ in found] == [i for i, _ in wanted] and [s for _, s in found] == pytest.approx(
        [s for _, s in wanted], rel=1e-6
    )


@pytest.mark.parametrize("name", ALL)
def test_texts(service: Running, name: str) -> None:
    docs = [text[:40] for text in texts(COUNT)]  # LiteLLM's client of TEI says that nothing may be cut
    wanted = expected(service, "", docs)
    assert len({score for _, score in wanted}) > 1
    some = ALL[name](base_of(service), QUERY, docs, 3)
    assert same(some[:3], wanted[:3])
    assert len(some) == 3
    assert same(ALL[name](base_of(service), QUERY, docs, COUNT), wanted)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_ids_on_a_store_s_path(service: Running, client: Client) -> None:
    ids = [d.doc_id for d in documents(COUNT)]
    wanted = expected(service, "/v1/stores/real", ids)
    assert same(client(base_of(service, "/v1/stores/real"), QUERY, ids, COUNT), wanted)


def test_documents_come_back_where_they_are_asked_for(service: Running) -> None:
    docs = texts(COUNT)
    asked: dict[str, Any] = {"model": "m", "query": QUERY, "documents": docs, "top_n": 1}
    (best,) = cohere.Client(TOKEN, base_url=base_of(service)).rerank(return_documents=True, **asked).results
    assert best.document is not None
    assert best.document.text == docs[best.index]
    (best,) = cohere.Client(TOKEN, base_url=base_of(service)).rerank(**asked).results
    assert best.document is None


@pytest.mark.parametrize(
    ("token", "path", "query", "error"),
    [
        ("another-token-than-the-service-s", "", QUERY, cohere.UnauthorizedError),
        (TOKEN, "/v1/stores/none", QUERY, cohere.NotFoundError),
        (TOKEN, "", "", cohere.UnprocessableEntityError),
    ],
    ids=["token", "store", "query"],
)
def test_refusals_are_the_client_s_own_exceptions(
    service: Running, token: str, path: str, query: str, error: type[Exception]
) -> None:
    client = cohere.ClientV2(token, base_url=base_of(service, path))
    with pytest.raises(error):
        client.rerank(model="m", query=query, documents=["a", "b"])
    client_v1 = cohere.Client(token, base_url=base_of(service, path))
    with pytest.raises(error):
        client_v1.rerank(model="m", query=query, documents=["a", "b"])


def test_a_wrong_token_is_litellm_s_own_exception(service: Running) -> None:
    kinds = (litellm.exceptions.AuthenticationError, litellm.exceptions.APIConnectionError)  # by its version
    with pytest.raises(kinds, match="a token is needed"):
        litellm.rerank(
            model="cohere/m", query=QUERY, documents=["a"], api_base=base_of(service), api_key="wrong-token-01"
        )


def examples() -> list[str]:
    (section,) = re.findall(r"^## Clients\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    found: list[str] = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.partition("\n")[0])
def test_the_page_s_examples_run_as_they_stand(
    service: Running, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(
        example.replace("http://127.0.0.1:8080", base_of(service))
        .replace("YOUR-TOKEN", TOKEN)
        .replace("articles", "real"),
        {},
    )
    assert capsys.readouterr().out.strip()
