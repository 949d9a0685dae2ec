"""The files of a checkpoint's folder, read without running code of theirs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints import tokenizer as tokenizers
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
POINTER = b"version https://git-lfs"
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
                return self._parts(name + INDEX)
        raise CheckpointError(f"{self.folder}: no {SAFETENSORS} and no {PICKLED} here")

    def _parts(self, index: str) -> dict[str, torch.Tensor]:
        """The tensors of several files, each from the file that the index names for it."""
        places = self.json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise CheckpointError(f"{self.folder / index}: no weight_map, which says in what files the tensors lie")
        found = {}
        for part in sorted({self.inside(place, index) for place in places.values()}):
            held = self.load(part)
            wanted = [name for name, place in places.items() if place == part]
            if lost := sorted(set(wanted) - held.keys()):
                raise CheckpointError(f"{self.folder / index}: {part} does not hold {lost[:5]}")
            found.update({name: held[name] for name in wanted})
        return found

    def inside(self, path: object, said_by: str) -> str:
        """A path that a file of the checkpoint names, which must not lead out of its folder."""
        if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise CheckpointError(f"{self.folder / said_by}: it names {path!r}, which is no path inside this folder")
        return path

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer, which neither cuts nor pads."""
        return tokenizers.load_tokenizer(self.folder, self._tokenizer_config)

    @property
    def tokenizer_assumed(self) -> dict[str, str]:
        """What none of its files says of the tokenizer."""
        return tokenizers.assumed(self.folder, self._tokenizer_config)

    @property
    def _tokenizer_config(self) -> Mapping[str, Any]:
        return self.json("tokenizer_config.json", default={})

    def special_id(self, name: str) -> int:
        """The id of the tokenizer's "cls", "sep", "mask" or "pad". Raises CheckpointError where it has none."""
        return tokenizers.special_id(self.folder, self.tokenizer, name)

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
        except (ValueError, OSError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}. Restore it from the checkpoint") from None

    def load(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one file, by name. Raises CheckpointError for anything else in it."""
        self._check_pointer(name)
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
        reason = str(error) or type(error).__name__
        return CheckpointError(
            f"{self.folder}: the weights cannot be read, the file is damaged or not weights: {reason}"
        )

    def _check_pointer(self, name: str) -> None:
        with (self.folder / name).open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise CheckpointError(
                    f"{self.folder}: {name} only says where git keeps the weights; fetch them with git lfs pull"
                )


def _tensors(found: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise CheckpointError(f"{path.parent}: {path.name} is not a dictionary of tensors by name")
    return found
