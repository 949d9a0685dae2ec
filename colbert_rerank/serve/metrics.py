"""What Prometheus is told, of one service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from colbert_rerank.serve.engine import Batch, Engine
from colbert_rerank.serve.jobs import Answer, Job

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
DOCUMENTS = (10, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
TEXTS = ""  # the store's name where there is none


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"colbert_rerank_{name}", text, labels, buckets=buckets, registry=self._registry)

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"colbert_rerank_{name}", text, labels, registry=self._registry)

        self._requests = counter("requests", "Requests answered.", ("route", "code"))
        self._request_seconds = histogram("request_seconds", "From a request to its answer.", ("route",), SECONDS)
        self._stage_seconds = histogram(
            "stage_seconds", "What a re-ranked query took by stage.", ("store", "stage"), SECONDS
        )
        self._answers = counter("answers", "Re-ranked queries by status and reason.", ("store", "status", "reason"))
        self._documents = histogram("documents", "Documents a query.", ("store",), DOCUMENTS)
        self._missing = counter("missing_documents", "Documents asked for that have no vectors.", ("store",))
        self._truncated = counter("truncated_queries", "Queries that were cut to the model's length.", ("store",))
        self._batch_queries = histogram("batch_queries", "Queries encoded together.", (), SIZES)
        self._batch_tokens = histogram("batch_tokens", "Tokens of a batch, about.", (), TOKENS)
        self._refused = counter("refused", "Requests refused because too many were waiting.", ())

    def watch(self, engine: Engine) -> None:
        """Tell of what the engine holds, too, whenever somebody asks."""
        self._registry.register(_Held(engine))

    def request(self, route: str, code: int, seconds: float) -> None:
        self._requests.labels(route, str(code)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self) -> None:
        self._refused.inc()

    def batch(self, batch: Batch) -> None:
        self._batch_queries.observe(len(batch.jobs))
        self._batch_tokens.observe(batch.tokens)

    def answer(self, job: Job, answer: Answer) -> None:
        store = job.store or TEXTS
        self._answers.labels(store, answer.status, answer.reason).inc()
        self._documents.labels(store).observe(len(job.documents))
        self._missing.labels(store).inc(answer.lacking)
        self._truncated.labels(store).inc(answer.query_truncated)
        for stage, ms in answer.timings_ms.items():
            self._stage_seconds.labels(store, stage).observe(ms / 1000)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Held(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> list[GaugeMetricFamily]:
        waiting = GaugeMetricFamily("colbert_rerank_waiting", "Requests that wait.", value=len(self._engine))
        found = {
            name: GaugeMetricFamily(f"colbert_rerank_store_{name}", text, labels=["store"])
            for name, text in (
                ("generation", "The generation that is served."),
                ("documents", "Documents in it."),
                ("stale", "1 where what is in its folder by now is not what is served."),
                ("damaged", "1 where scoring found its files damaged."),
                ("away", "1 where its first stage cannot be reached, so that it is not searched by text."),
                ("hot", "Documents whose vectors were in the GPU's memory, of those read."),
                ("read", "Documents read."),
            )
        }
        residence = GaugeMetricFamily(
            "colbert_rerank_store_residence", "1 for where its rows are kept.", labels=["store", "where"]
        )
        for name, store in self._engine.stores.items():
            reranker = store.reranker
            found["generation"].add_metric([name], store.generation)
            found["documents"].add_metric([name], len(reranker.store))
            found["stale"].add_metric([name], bool(store.fault))
            found["damaged"].add_metric([name], bool(store.damage))
            found["away"].add_metric([name], bool(store.away))
            found["hot"].add_metric([name], reranker.report.hot)
            found["read"].add_metric([name], reranker.report.read)
            residence.add_metric([name, reranker.residence.where], 1)
        return [waiting, residence, *found.values()]
