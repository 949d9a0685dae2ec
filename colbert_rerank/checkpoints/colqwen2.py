"""vidore/colqwen2-v1.0-hf: Qwen2-VL and a projection, for page images; a text is always a query.

Rules from transformers 4.57, with which the checkpoint was published (models/colqwen2): a query stands between
"Query: " and ten padding tokens, all attended; a page is a prompt around the patches of the image, which have positions
on three axes; every row is kept; vectors are L2-normalised. transformers 5 numbers the patches in one row and ends a
query with a line break: neither is what the checkpoint was trained with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices
from colbert_rerank.checkpoints.spec import EncoderSpec, TextRules
from colbert_rerank.errors import CheckpointError

_log = logging.getLogger(__name__)

NAME = "ColQwen2"
PROMPT = "Query: "
ADAPTER = "adapter_config.json"  # transformers would follow it
PREPROCESSOR = "preprocessor_config.json"
BUFFERS = 10  # padding tokens after a query
QUERY_LENGTH = 512


def matches(files: Files) -> bool:
    return files.has("config.json") and files.config.get("model_type") == "colqwen2"


def build(files: Files, choices: Choices) -> Built:
    import torch
    from transformers import ColQwen2ForRetrieval

    from colbert_rerank.checkpoints.page_network import PageNetwork, PageReader

    folder = files.folder
    for name in (ADAPTER, PREPROCESSOR):
        if files.has(name) != (name == PREPROCESSOR):
            raise CheckpointError(
                f"{folder}: {name} is {'missing' if name == PREPROCESSOR else 'here'}; expected the merged weights of "
                "vidore/colqwen2-v1.0-hf with their preprocessor_config.json"
            )
    if "vlm_config" not in files.config:
        raise CheckpointError(f"{folder}: config.json has no vlm_config, which says what network this is")
    try:
        with _quiet():
            tokenizer = files.tokenizer
            model, loading = ColQwen2ForRetrieval.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be read as {NAME}: {str(error).splitlines()[0]}") from None
    problems = {
        kind: sorted(map(str, loading[kind]))[:5] for kind in ("missing_keys", "unexpected_keys") if loading[kind]
    }
    if problems or loading.get("mismatched_keys"):
        raise CheckpointError(
            f"{folder}: the tensors are not those of a {NAME} checkpoint: {problems or 'other shapes'}"
        )
    config = model.config.vlm_config
    merge = config.vision_config.spatial_merge_size
    pad = files.special_id("pad")
    rules = TextRules((), (pad,) * BUFFERS, QUERY_LENGTH, PROMPT)
    spec = EncoderSpec(
        dim=model.embedding_proj_layer.out_features,
        query=rules,
        document=rules,
        expansion=None,
        pad_id=pad,
        skip_ids=(),
        normalize=True,
        text_documents=choices.text_documents,
    )
    assumed = {"query_length": f"{QUERY_LENGTH}, where transformers cuts nothing"}
    if choices.text_documents:
        assumed["documents"] = "texts, as was asked for, rendered as queries: it was trained to find pages"
        _log.warning("%s: documents: %s", folder, assumed["documents"])
    network = PageNetwork(model.vlm, config.image_token_id, merge)
    positions_ = int(config.text_config.max_position_embeddings)
    reader = PageReader(files, merge)
    return Built(
        spec, tokenizer, positions_, network, model.embedding_proj_layer, files.tensors, assumed, reader=reader
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its progress bar and its warnings.

    They are of keys in config.json that it has read all the same, and of tensors, which `build` refuses itself.
    """
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from transformers.utils import logging

    level = logging.get_verbosity()
    # where the environment says whether there are bars, that holds
    bars = HF_HUB_DISABLE_PROGRESS_BARS is None and logging.is_progress_bar_enabled()
    logging.set_verbosity(max(level, logging.ERROR))
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
