"""PyLate's checkpoints, in the layout of sentence-transformers: a Transformer and one Dense after the other.

Rules from PyLate 1.6 (pylate/models/colbert.py, Dense.py): a prompt that has the name "query" or "document" goes before
its texts, as the cards of checkpoints with prompts ask for; texts are stripped; the marker of the prefix stands at
position 1, and one that a text spells out is one as well; a query is filled with [MASK] to its length, or is not;
document rows of the skip list are dropped; vectors are L2-normalised. What config_sentence_transformers.json does not
state is PyLate's default.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices, check_lengths, defaults_of, fill, flag, linear
from colbert_rerank.checkpoints.spec import EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

NAME = "PyLate"
MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
DEFAULTS: dict[str, Any] = {
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 32,
    "document_length": 180,
    "do_query_expansion": True,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(string.punctuation),
}
SIDES = ("query", "document")
MAY_BE_NULL = ("skiplist_words",)  # which PyLate reads as not stated
# The classes of torch.nn that a Dense may name: others could be anything.
ACTIVATIONS = ("Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid")
# Tensors that scores do not depend on.
IGNORED = ("pooler.", "embeddings.position_ids")


def matches(files: Files) -> bool:
    return files.has(MODULES) and any(_kind(module) == "Dense" for module in _modules(files))


def build(files: Files, choices: Choices) -> Built:
    import torch

    folder, modules = files.folder, _modules(files)
    kinds = [_kind(module) for module in modules]
    if kinds != ["Transformer", *["Dense"] * (len(kinds) - 1)]:
        raise CheckpointError(
            f"{folder}: {MODULES} lists {', '.join(kinds)}; token vectors are made by a Transformer and Dense modules"
        )
    inner = Files(folder / files.inside(modules[0]["path"], MODULES))
    stated = files.json(SETTINGS, default={})
    settings = DEFAULTS | {key: value for key, value in stated.items() if value is not None or key not in MAY_BE_NULL}
    backbone, tensors, hidden, positions = _backbone(inner)
    layers: list[torch.nn.Module] = []
    width = hidden
    for number, module in enumerate(modules[1:], start=1):
        layer, width, named = _dense(Files(folder / files.inside(module["path"], MODULES)), width)
        layers.append(layer)
        tensors |= {f"{number}_Dense.{name}": tensor for name, tensor in named.items()}
    lowercase = flag(
        inner.folder, inner.json("sentence_bert_config.json", default={"do_lower_case": False}), "do_lower_case"
    )
    spec = _spec(files, inner, settings, width, positions, lowercase)
    assumed = defaults_of(files, SETTINGS, stated, DEFAULTS, "PyLate") | inner.tokenizer_assumed
    if not inner.has("sentence_bert_config.json"):
        assumed["do_lower_case"] = "False, sentence-transformers' default"
    if spec.query.prompt or spec.document.prompt:
        assumed["prompts"] = "those named query and document, or else the default, as cards of such checkpoints ask for"
    return Built(spec, inner.tokenizer, positions, backbone, torch.nn.Sequential(*layers), tensors, assumed)


def _modules(files: Files) -> list[dict[str, Any]]:
    """The entries of modules.json, in order."""
    listed = files.json_list(MODULES)
    for module in listed:
        if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
            raise CheckpointError(f"{files.folder}: {MODULES} does not name type and path of each module")
    return listed


def _kind(module: Mapping[str, Any]) -> str:
    """The name of a module's class; whose class it is (PyLate's, sentence-transformers') makes no difference."""
    return str(module["type"]).rpartition(".")[2]


def _backbone(files: Files) -> tuple[torch.nn.Module, dict[str, torch.Tensor], int, int]:
    """The network, its tensors, the width of its states, and how many tokens it reads."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
        # in full precision, whatever config.json says that the weights were saved or trained in
        network = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{files.folder}: config.json names no network of transformers that runs without the checkpoint's own "
            f"code: {str(error).splitlines()[0]}"
        ) from None
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    tensors, prefix = files.tensors, f"{network.base_model_prefix}."
    if any(name.startswith(prefix) for name in tensors):  # beside the heads of another task
        tensors = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    tensors = {n: t for n, t in tensors.items() if not n.startswith(IGNORED)}
    fill(network, tensors, files.folder, f"a {NAME} checkpoint")
    positions = int(config.max_position_embeddings)
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1  # RoBERTa and its kin: the first are those of the padding
    return network, tensors, int(config.hidden_size), positions


def _dense(files: Files, width: int) -> tuple[torch.nn.Module, int, dict[str, torch.Tensor]]:
    """One Dense module, the width of what it gives, and its tensors."""
    import torch

    from colbert_rerank.checkpoints.dense import Dense

    config, tensors = files.config, files.tensors
    expected = {"linear.weight", *(["linear.bias"] if config.get("bias", True) else [])}
    residual = bool(config.get("use_residual", False))
    stray = sorted((expected ^ tensors.keys()) - ({"residual.weight"} if residual else set()))
    if stray:
        raise CheckpointError(
            f"{files.folder}: the tensors {sorted(tensors)} are not those that config.json says ({', '.join(stray)} "
            "is missing or too many)"
        )
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = path.rpartition(".")[2]
    if not path.startswith("torch.nn.modules.") or activation not in ACTIVATIONS:
        raise CheckpointError(f"{files.folder}: unknown activation {path!r}; known are {', '.join(ACTIVATIONS)}")
    made = linear(tensors["linear.weight"], tensors.get("linear.bias"), width, files.folder, "linear.weight")
    out = len(tensors["linear.weight"])
    if config.get("out_features", out) != out:
        raise CheckpointError(f"{files.folder}: config.json says out_features {config['out_features']}, it has {out}")
    other: torch.nn.Module | None = None
    if residual:
        weight = tensors.get("residual.weight")
        if weight is None and out != width:
            raise CheckpointError(
                f"{files.folder}: a residual of {width} to {out} dimensions needs residual.weight, which is missing"
            )
        other = torch.nn.Identity() if weight is None else linear(weight, None, width, files.folder, "residual.weight")
    return Dense(made, getattr(torch.nn, activation)(), other), out, tensors


def _spec(
    files: Files, inner: Files, settings: Mapping[str, Any], dim: int, positions: int, lowercase: bool
) -> EncoderSpec:
    folder, tokenizer = files.folder, inner.tokenizer
    check_lengths(folder, {key: settings[key] for key in ("query_length", "document_length")}, positions)
    before, after = _special(folder, tokenizer)
    expands = flag(folder, settings, "do_query_expansion")
    attended = flag(folder, settings, "attend_to_expansion_tokens")
    fill_id = inner.special_id("mask" if expands else "pad")
    rules = {
        side: TextRules(
            (*before, *_marker(folder, tokenizer, settings[f"{side}_prefix"])),
            after,
            settings[f"{side}_length"],
            _prompt(folder, settings, side),
        )
        for side in SIDES
    }
    words = settings["skiplist_words"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{folder}: skiplist_words must be a list of words, it is {words!r:.100}")
    found = (tokenizer.convert_tokens_to_ids(word) for word in words)
    return EncoderSpec(
        dim=dim,
        query=rules["query"],
        document=rules["document"],
        expansion=Expansion(fill_id, attended) if expands else None,
        # PyLate fills queries with [MASK] at once, so that a padding token in the text stays what it is
        pad_id=fill_id,
        skip_ids=tuple(sorted({i for i in found if i is not None})),
        normalize=True,
        strip=True,
        lowercase=lowercase,
    )


def _prompt(folder: object, settings: Mapping[str, Any], side: str) -> str:
    """What goes before the texts of one side: the prompt of its name, else the one that is the default of both."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise CheckpointError(f"{folder}: prompts must be texts by name, they are {prompts!r:.100}")
    default = settings.get("default_prompt_name")
    if default and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(f"{folder}: default_prompt_name is {default!r}, and there is no such prompt")
    return str(prompts.get(side) or prompts.get(default, ""))


def _special(folder: object, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The one id before a text, [CLS], and those after it, as the tokenizer puts them."""
    encoding = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
    inside = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if not inside or inside[0] != 1:
        raise CheckpointError(
            f"{folder}: the tokenizer renders 'a' as {encoding.tokens}; expected one special token before it"
        )
    return tuple(encoding.ids[:1]), tuple(encoding.ids[inside[-1] + 1 :])


def _marker(folder: object, tokenizer: Any, prefix: object) -> tuple[int, ...]:
    """The id of a prefix, which is one token of the vocabulary; none for the empty prefix."""
    if prefix == "":
        return ()
    if not isinstance(prefix, str) or prefix not in tokenizer.get_vocab():
        raise CheckpointError(f"{folder}: the prefix {prefix!r} is not in the tokenizer's vocabulary")
    tokenizer.add_tokens([prefix])  # as PyLate does: from now on it is one token in a text, too
    return (int(tokenizer.convert_tokens_to_ids(prefix)),)
