"""Where candidates come from, as `rerank` and `run` are told it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from colbert_rerank.cli.help import section
from colbert_rerank.cli.options import FILE, OpenSearchOptions, given, grouped, refuse
from colbert_rerank.errors import UsageError

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

    from colbert_rerank.rerank import Reranker
    from colbert_rerank.store import Store
    from colbert_rerank.types import Candidates

F = TypeVar("F", bound=Callable[..., Any])

# What means nothing without a server, without an OpenSearch, without an index by FAISS, without an Elasticsearch.
ONLY_A_SERVER = ("index", "query_template", "dfs", "allow_other_index", "ca_file", "insecure", "timeout")
ONLY_OPENSEARCH = ("os_user", "os_password_file", "os_api_key_file", "os_token_file", "aws_region", "add_doc_id_alias")
ONLY_FAISS = ("nprobe", "depth")
ONLY_ELASTICSEARCH = ("es_user", "es_password_file", "es_api_key_file", "es_token_file")


@dataclass(frozen=True)
class ElasticsearchOptions:
    elasticsearch: str | None
    es_user: str
    es_password_file: str
    es_api_key_file: str
    es_token_file: str

    def connect(self, server: OpenSearchOptions) -> Elasticsearch:
        """A client; certificates and the timeout are as ``server`` has them. Contacts nothing. Raises UsageError."""
        from colbert_rerank.connection import ELASTICSEARCH, Connection
        from colbert_rerank.elasticsearch import connect

        return connect(
            Connection.from_environment(
                self.elasticsearch or "",
                user=self.es_user,
                password_file=self.es_password_file,
                api_key_file=self.es_api_key_file,
                token_file=self.es_token_file,
                ca_file=server.ca_file,
                verify=not server.insecure,
                timeout=server.timeout,
                server=ELASTICSEARCH,
            )
        )


@dataclass(frozen=True)
class FirstStageOptions:
    """Where candidates come from: the embedded index, OpenSearch or Elasticsearch."""

    bm25: bool
    index: str | None
    query_template: Path | None
    dfs: bool
    allow_other_index: bool
    add_doc_id_alias: bool

    def open(self, store: Store, server: OpenSearchOptions, elastic: ElasticsearchOptions) -> tuple[Store, Candidates]:
        """The store, in the generation that the index beside it goes with, if there is one; and the candidates."""
        if server.opensearch is not None and elastic.elasticsearch is not None:
            raise UsageError("--opensearch, --elasticsearch: the candidates come from one of them; choose one")
        if server.opensearch is not None:
            refuse(("bm25",), "the candidates come from --opensearch; choose one of them")
            refuse(ONLY_ELASTICSEARCH, "only with --elasticsearch URL")
            return store, self._open_index(store, server)
        if elastic.elasticsearch is not None:
            refuse(("bm25",), "the candidates come from --elasticsearch; choose one of them")
            refuse(ONLY_OPENSEARCH, "only with --opensearch URL")
            return store, self._open_elastic_index(store, server, elastic)
        refuse(ONLY_ELASTICSEARCH, "only with --elasticsearch URL")
        either = "" if given(*ONLY_OPENSEARCH) else " or --elasticsearch URL"
        refuse((*ONLY_OPENSEARCH, *ONLY_A_SERVER), f"only with --opensearch URL{either}")
        from colbert_rerank.candidates.bm25 import open_beside

        return open_beside(store)

    def _open_index(self, store: Store, server: OpenSearchOptions) -> Candidates:
        from colbert_rerank.binding import check_origin, index_name
        from colbert_rerank.candidates.doc_id_alias import add_doc_id_alias, estimate_fielddata_bytes
        from colbert_rerank.candidates.opensearch import OpenSearchCandidates
        from colbert_rerank.candidates.template import load_template
        from colbert_rerank.cli.output import notice
        from colbert_rerank.types import QUALIFIED

        origin = store.manifest.origin
        index = self.index or index_name(store.manifest)
        if index is None:
            raise UsageError("name the index that the candidates come from: --index NAME")
        template = load_template(self.query_template) if self.query_template else None
        client = server.connect()

        def candidates() -> Candidates:
            return OpenSearchCandidates(
                client,
                index,
                fields=store.manifest.recipe.fields,
                template=template,
                qualified_ids=origin is not None and origin.kind == QUALIFIED,
                dfs=self.dfs,
            )

        if not self.add_doc_id_alias:
            return candidates()
        check_origin(store, candidates(), allow_other_index=self.allow_other_index)  # before anything is changed
        size = estimate_fielddata_bytes(client, index)
        notice(f"doc_id -> _id alias on {index}: about {size / 2**20:.1f} MiB of fielddata heap once it is used")
        add_doc_id_alias(client, index)
        return candidates()

    def _open_elastic_index(self, store: Store, server: OpenSearchOptions, elastic: ElasticsearchOptions) -> Candidates:
        from colbert_rerank.candidates.elasticsearch import ElasticsearchCandidates
        from colbert_rerank.candidates.template import load_template

        if self.index is None:  # no store knows one: `ingest` fills none and reads none
            raise UsageError("name the index that the candidates come from: --index NAME")
        return ElasticsearchCandidates(
            elastic.connect(server),
            self.index,
            fields=store.manifest.recipe.fields,
            template=load_template(self.query_template) if self.query_template else None,
            dfs=self.dfs,
        )


def first_stage_options(command: F) -> F:
    """Where candidates come from, passed on as ``first_stage: FirstStageOptions``."""
    option = section("First stage")
    return grouped(
        command,
        "first_stage",
        FirstStageOptions,
        option("--bm25", is_flag=True, help="The BM25 index beside the store (the default)."),
        option("--index", metavar="NAME", help="The index; in OpenSearch by default the one the store was made from."),
        option("--query-template", type=FILE, help='Your own query as JSON: {"match": {"body": "{{query}}"}}.'),
        option("--dfs", is_flag=True, help="Term statistics over all shards (dfs_query_then_fetch)."),
        option(
            "--allow-other-index", is_flag=True, help="Accept a reindexed copy, after comparing 20 documents with it."
        ),
        option(
            "--add-doc-id-alias", is_flag=True, help="Add a doc_id alias of _id to the index's mapping (changes it)."
        ),
    )


@dataclass(frozen=True)
class RetrieverOptions:
    """What finds the candidates: their words, or their vectors."""

    retriever: str
    nprobe: int | None
    depth: int | None

    def candidates(self, reranker: Reranker, by_words: Candidates) -> Candidates:
        """The candidates; ``by_words`` are those of BM25, in whose index the documents are."""
        if self.retriever != "faiss":
            refuse(ONLY_FAISS, "only with --retriever faiss")
        if self.retriever == "bm25":
            return by_words
        refuse(("query_template", "dfs"), "only with --retriever bm25")
        from colbert_rerank.candidates.vectors import VectorCandidates, VectorIndex
        from colbert_rerank.retrieval.centroids import CentroidIndex
        from colbert_rerank.retrieval.faiss_index import DEPTH, NPROBE, FaissIndex

        index: VectorIndex
        if self.retriever == "faiss":
            index = FaissIndex(reranker.store, nprobe=self.nprobe or NPROBE, depth=self.depth or DEPTH)
        else:
            index = CentroidIndex(reranker.store)
        return VectorCandidates(index, reranker.encoder, by_words)


def retriever_options(command: F) -> F:
    """By words, or by vectors, passed on as ``retriever: RetrieverOptions``."""
    option = section("First stage")
    return grouped(
        command,
        "retriever",
        RetrieverOptions,
        option(
            "--retriever",
            type=click.Choice(["bm25", "centroids", "faiss"]),
            default="bm25",
            show_default=True,
            help="Find candidates by their words, or by their vectors with an index of `index build`.",
        ),
        option(
            "--nprobe",
            metavar="N",
            type=click.IntRange(1),
            help="With faiss: partitions to look at for each token of the query; by default 16.",
        ),
        option(
            "--depth",
            metavar="N",
            type=click.IntRange(1),
            help="With faiss: vectors to find for each token of the query; by default 1024.",
        ),
    )


def elasticsearch_options(command: F) -> F:
    """How to reach Elasticsearch, passed on as ``elastic: ElasticsearchOptions``."""
    option = section("Elasticsearch")
    return grouped(
        command,
        "elastic",
        ElasticsearchOptions,
        option(
            "--elasticsearch", metavar="URL", help="The server; --ca-file, --insecure and --timeout go with it, too."
        ),
        option("--es-user", metavar="NAME", default="", help="Else $COLBERT_RERANK_ELASTICSEARCH_USER."),
        option("--es-password-file", metavar="FILE", default="", help="Else $COLBERT_RERANK_ELASTICSEARCH_PASSWORD."),
        option("--es-api-key-file", metavar="FILE", default="", help="Else $COLBERT_RERANK_ELASTICSEARCH_API_KEY."),
        option(
            "--es-token-file",
            metavar="FILE",
            default="",
            help="Bearer token; else $COLBERT_RERANK_ELASTICSEARCH_TOKEN.",
        ),
    )
