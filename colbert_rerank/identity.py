"""Whether a store and an encoder belong together.

*Query identity* is what scores depend on when searching; *document identity* what documents were encoded with, compared
also when a store is added to. Provenance (device, precision, versions) is recorded and never compared: a store made on
a GPU serves on a CPU.
"""

from __future__ import annotations

import platform
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import colbert_rerank
from colbert_rerank.checkpoints import STARTER, Checkpoint, Choices
from colbert_rerank.checkpoints.spec import TextRules
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import StoreMismatchError
from colbert_rerank.recipe import RARE, Recipe
from colbert_rerank.store import Manifest

FINGERPRINT = "fingerprint"
FINGERPRINT_TOLERANCE = 1e-3  # as a share of the greatest: other machines and versions give 1e-5
LISTED = 8  # of a longer list, such as that of tokens to skip, only the number is shown
# What a user gives to have another: where there is an option, a difference and a choice are named by it.
OPTIONS = {
    "query_length": "--query-length",
    "document_length": "--doc-length",
    "skip_before": "--doc-skip before-encode",
    "fields": "--fields",
    "stride": "--long-docs windows --stride",
    "pool_factor": "--pool-factor",
    "doc_skip": "--doc-skip",
    "base": "--base",
    "projection": "--projection",
    "text_documents": "--text-documents",
}
# The packages whose versions may move a vector's last bits.
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "h5py")


def query_identity(checkpoint: Checkpoint) -> dict[str, Any]:
    spec = checkpoint.spec
    known = {
        "tensors": checkpoint.tensor_hash,
        "tokenizer": checkpoint.tokenizer_hash,
        FINGERPRINT: list(checkpoint.fingerprint),
        "dim": spec.dim,
        **_rules("query", spec.query),
        "normalize": spec.normalize,
        "similarity": spec.similarity,
        "aggregation": spec.aggregation,
    }
    if spec.expansion:
        known |= {"expansion_id": spec.expansion.token_id, "attend_to_expansion": spec.expansion.attended}
        if spec.expansion.count is not None:
            known["expansion_count"] = spec.expansion.count
    # What few layouts have is left out where it is not so, as in stores that were made before there was such a choice.
    rare = {"first_row": spec.first_row, "strip": spec.strip, "lowercase": spec.lowercase}
    return known | {name: value for name, value in rare.items() if value}


def document_identity(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    spec = checkpoint.spec
    return {
        **_rules("document", spec.document),
        "skip_ids": list(spec.skip_ids),
        **({"skip_before": True} if spec.skip_before else {}),
        "fields": list(recipe.fields),
        "separator": recipe.separator,
        **{name: value for name, value in recipe._asdict().items() if name in RARE and value != RARE[name]},
        **({"page_settings": checkpoint.reader.settings} if recipe.pages and checkpoint.reader else {}),
    }


def _rules(kind: str, rules: TextRules) -> dict[str, Any]:
    """A prefix of [CLS] and a marker is told by the marker, as the first stores had it; a [SEP] goes without saying."""
    length: dict[str, Any] = {f"{kind}_length": rules.length}
    if rules.prompt:
        length[f"{kind}_prompt"] = rules.prompt
    if len(rules.prefix_ids) == 2 and len(rules.suffix_ids) == 1:
        return {f"{kind}_marker_id": rules.prefix_ids[1], **length}
    return {f"{kind}_prefix_ids": list(rules.prefix_ids), f"{kind}_suffix_ids": list(rules.suffix_ids), **length}


def provenance(encoder: Encoder) -> dict[str, Any]:
    checkpoint = encoder.checkpoint
    return {
        "model": model_name(encoder),
        "choices": choices_made(encoder),
        "assumed": dict(checkpoint.assumed),
        "device": encoder.device.type,
        "compute_dtype": encoder.dtype,
        "colbert_rerank": colbert_rerank.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in LIBRARIES},
    }


def model_name(encoder: Encoder) -> str:
    """By which the model is found again: as it was given, or its folder."""
    return _placed(encoder.checkpoint.name)


def choices_made(encoder: Encoder) -> dict[str, Any]:
    """What was chosen about the model; the base as it is found again."""
    stated = encoder.checkpoint.choices.stated()
    return {name: _placed(value) if name == "base" else value for name, value in stated.items()}


def _placed(name: str) -> str:
    return str(Path(name).expanduser().absolute()) if Path(name).expanduser().is_dir() else name


def made_with(manifest: Manifest) -> tuple[str, Choices]:
    """The name of the model that a store was made with, and what was chosen about it."""
    known = {field.name for field in fields(Choices)}
    choices = {name: value for name, value in manifest.provenance.get("choices", {}).items() if name in known}
    return str(manifest.provenance.get("model", STARTER)), Choices(**choices)


def described(manifest: Manifest) -> str:
    """`made_with` in words: ``model 'starter', --query-length 16``."""
    model, choices = made_with(manifest)
    stated = [OPTIONS[name] + ("" if value is True else f" {value}") for name, value in choices.stated().items()]
    return ", ".join([f"model {model!r}", *stated])


def _same(name: str, stored: Any, given: Any) -> bool:
    if name == FINGERPRINT and isinstance(stored, list) and len(stored) == len(given or ()):
        return bool(np.allclose(stored, given, rtol=0, atol=FINGERPRINT_TOLERANCE * np.abs(given).max()))
    return bool(stored == given)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and len(value) > LISTED:
        return f"{len(value)} of them"
    return repr(value)


def check(store: Path, what: str, stored: dict[str, Any], given: dict[str, Any], advice: str) -> None:
    """Raises StoreMismatchError where the two identities differ, naming each difference with both sides.

    By the option of the command line that makes it, where there is one.
    """
    names = sorted(stored.keys() | given.keys())
    other = [name for name in names if not _same(name, stored.get(name), given.get(name))]
    if not other:
        return
    if "tensors" in other:  # which says it already
        other = [name for name in other if name != FINGERPRINT]
    sides = [
        f"{OPTIONS.get(name, name)}: the store has {_shown(stored.get(name))}, this run {_shown(given.get(name))}"
        for name in other
    ]
    raise StoreMismatchError(f"{store}: made with another {what} ({'; '.join(sides)}). {advice}")
