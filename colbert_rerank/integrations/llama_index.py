"""A node postprocessor for LlamaIndex that re-ranks by the nodes' ids, from a store."""

from __future__ import annotations

from itertools import islice

from colbert_rerank.errors import InputError, MissingDependencyError
from colbert_rerank.integrations.pairing import SOURCE, reranked, source_of
from colbert_rerank.rerank import Reranker
from colbert_rerank.types import ScoredDoc

try:
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ModuleNotFoundError as error:
    raise MissingDependencyError("postprocessors for LlamaIndex", "colbert-rerank[llama-index]") from error


class ColbertStoreRerank(BaseNodePostprocessor):
    """Re-ranks nodes by the vectors that a store has under their ids, as ``reranker`` is set to.

    An id is the node's, or with ``id_key`` what stands under it in the metadata. What becomes of one without vectors is
    the re-ranker's ``missing``; under "encode" the node's content is encoded, without its metadata. ``top_n`` bounds
    the nodes returned.
    """

    reranker: Reranker = Field(exclude=True, repr=False)
    top_n: int | None = Field(default=None, ge=1)
    id_key: str | None = None

    @classmethod
    def class_name(cls) -> str:
        return "ColbertStoreRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Copies of ``nodes``, given in first-stage order, best first, with their scores.

        Their metadata say in ``relevance_source`` what a score is of: "vectors", "sketches", or "first_stage", where
        there were no vectors; neither language models nor embeddings are shown it. Raises InputError without a query,
        and for ids that are missing, no strings, or given twice.
        """
        if query_bundle is None:
            raise InputError("re-ranking needs the query: pass query_bundle or query_str")
        ids = [n.node.node_id if self.id_key is None else n.node.metadata.get(self.id_key) for n in nodes]
        ranked = reranked(
            self.reranker,
            query_bundle.query_str,
            nodes,
            ids,
            scores=[n.score for n in nodes],
            texts=[n.node.get_content(MetadataMode.NONE) for n in nodes],
        )
        return [_scored(node, document) for node, document in islice(ranked, self.top_n)]


def _scored(given: NodeWithScore, document: ScoredDoc) -> NodeWithScore:
    node = given.node
    hidden = {
        name: [*keys, SOURCE]
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
        if SOURCE not in (keys := getattr(node, name))
    }
    metadata = {**node.metadata, SOURCE: source_of(document)}
    return NodeWithScore(node=node.model_copy(update={"metadata": metadata, **hidden}), score=document.score)
