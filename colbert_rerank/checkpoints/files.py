"""The files of a checkpoint's folder, read without running code of theirs."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

TOKENIZERS = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"  # after the name: where the tensors lie, of weights in several files


@dataclass(frozen=True)
class Files:
    """A checkpoint's folder. What is read is kept: layouts look at the same files in turn."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json")

    @property
    def has_weights(self) -> bool:
        return any(self.has(name + more) for name in (SAFETENSORS, PICKLED) for more in ("", INDEX))

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of the model's weights, by name; safetensors before pickles."""
        for name in (SAFETENSORS, PICKLED):
            if self.has(name):
                return self.load(name)
            if self.has(name + INDEX):
                parts = sorted(set(self.json(name + INDEX)["weight_map"].values()))
                return {k: t for part in parts for k, t in self.load(part).items()}
        raise CheckpointError(f"{self.folder}: no {SAFETENSORS} and no {PICKLED} here")

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer, which neither cuts nor pads."""
        from transformers import AutoTokenizer, BertTokenizerFast

        if not any(map(self.has, TOKENIZERS)):  # transformers would make an empty one
            raise CheckpointError(f"{self.folder}: no tokenizer here; expected one of {', '.join(TOKENIZERS)}")
        # a vocab.txt alone is of word pieces, whatever config.json calls the network
        kind = BertTokenizerFast if self.has("vocab.txt") and not self.has("tokenizer.json") else AutoTokenizer
        try:
            tokenizer = kind.from_pretrained(self.folder, use_fast=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.folder}: no usable tokenizer: {error}") from None
        # A tokenizer.json may say how its texts were cut and padded in training; here the EncoderSpec alone says so.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def json(self, name: str, *, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object in a JSON file; ``default`` where there is none."""
        if default is not None and not self.has(name):
            return default
        data = self._json(name)
        if not isinstance(data, dict):
            raise CheckpointError(f"{self.folder / name}: expected a JSON object")
        return data

    def json_list(self, name: str) -> list[Any]:
        """The array in a JSON file."""
        data = self._json(name)
        if not isinstance(data, list):
            raise CheckpointError(f"{self.folder / name}: expected a JSON array")
        return data

    def _json(self, name: str) -> Any:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}. Restore it from the checkpoint") from None

    def load(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one file, by name. Raises CheckpointError for anything else in it."""
        tensors = self.unpickle(name) if not name.endswith(".safetensors") else self._safetensors(name)
        return _tensors(tensors, self.folder / name)

    def unpickle(self, name: str) -> Any:
        """What torch saved, as far as it is data."""
        import torch

        try:
            return torch.load(self.folder / name, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's own message advises to load it all the same
            raise CheckpointError(
                f"{self.folder}: {name} is damaged, or holds more than tensors, which could run code when loaded. "
                "Save the weights as model.safetensors"
            ) from None
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise self._unreadable(error) from None

    def _safetensors(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / name)
        except (SafetensorError, OSError, ValueError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: the weights cannot be read, the file is damaged or not weights: {error}"
        )


def _tensors(found: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise CheckpointError(f"{path.parent}: {path.name} is not a dictionary of tensors by name")
    return found
