"""The network of ColQwen2, Qwen2-VL, for texts and for page images, and how a page is read for it.

Positions and prompt are those of transformers 4.57 (models/qwen2_vl, models/colqwen2).
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.errors import CheckpointError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

BEFORE, AFTER = "<|im_start|>user\n<|vision_start|>", "<|vision_end|>Describe the image.<|im_end|><|endoftext|>"
PATCH = "<|image_pad|>"
# Of preprocessor_config.json.
SETTINGS = (
    *("do_resize", "size", "min_pixels", "max_pixels", "resample", "do_rescale", "rescale_factor", "do_normalize"),
    *("image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size"),
)


class Page(NamedTuple):
    """A page as the network reads it: ids [T], patches [P, features], and how many of them [high, wide]."""

    ids: torch.Tensor
    patches: torch.Tensor
    grid: tuple[int, int]


class PageReader:
    """From an image to a `Page`, as ``preprocessor_config.json`` says."""

    def __init__(self, files: Files, merge: int) -> None:
        self._folder = files.folder
        stated = files.json("preprocessor_config.json")
        self.settings = {key: stated[key] for key in SETTINGS if key in stated}  # that pages depend on
        encode = files.tokenizer.backend_tokenizer.encode
        self._before, self._after = (encode(text, add_special_tokens=False).ids for text in (BEFORE, AFTER))
        self._patch = int(files.tokenizer.convert_tokens_to_ids(PATCH))
        self._merge = merge

    @cached_property
    def _images(self) -> Any:
        """From transformers; made when a page is read, for queries need no images."""
        kind = _image_processor()
        try:
            images = kind.from_pretrained(self._folder)
            images(images=[self._blank()], return_tensors="pt")
        except Exception as error:  # of many kinds
            raise CheckpointError(
                f"{self._folder}: pages cannot be read as preprocessor_config.json says: {error}"
            ) from error
        return images

    def ids(self, size: tuple[int, int]) -> list[int]:
        """The ids of a page of this width and height, known without reading it. Raises InputError, CheckpointError."""
        width, height = size
        try:
            return self._ids(self._images.get_number_of_image_patches(height, width))
        except ValueError as error:
            raise InputError(f"the model reads no page of {width} x {height} pixels: {error}") from None

    def read(self, image: Image) -> Page:
        found = self._images(images=[image.convert("RGB")], return_tensors="pt")
        _, high, wide = found["image_grid_thw"][0].tolist()
        return Page(torch.tensor(self._ids(high * wide)), found["pixel_values"], (high, wide))

    @staticmethod
    def _blank() -> Image:
        from PIL import Image

        return Image.new("RGB", (64, 64))

    def _ids(self, patches: int) -> list[int]:
        return [*self._before, *[self._patch] * (patches // self._merge**2), *self._after]


def _image_processor() -> Any:
    """Qwen2-VL's, which resizes the width first, whatever Pillow does: from version 13 on it may begin with the height,
    which gives other pixels."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise MissingDependencyError("page images", "pillow") from None
    try:
        from transformers.image_processing_backends import PilBackend
        from transformers.image_utils import SizeDict
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
    except ImportError:
        raise MissingDependencyError("page images", "transformers>=5") from None

    class WidthFirst(Qwen2VLImageProcessorPil):  # type: ignore[misc]  # transformers has no types here
        def resize(self, image: Any, size: Any, resample: Any, factor: int, **_: Any) -> Any:
            height, width = image.shape[-2:]
            high, wide = smart_resize(height, width, factor, size.shortest_edge, size.longest_edge)
            narrow = PilBackend.resize(self, image, SizeDict(height=height, width=wide), resample)
            return PilBackend.resize(self, narrow, SizeDict(height=high, width=wide), resample)

    return WidthFirst


class PageNetwork(nn.Module):
    """Qwen2-VL, for texts or for one page."""

    def __init__(self, vlm: Any, patch_id: int, merge: int) -> None:
        super().__init__()
        self.vlm = vlm
        self._patch_id = patch_id
        self._merge = merge

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Hidden states [n, length, hidden] of texts as ``last_hidden_state``, of ids and mask [n, length]."""
        found = self.vlm.language_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return SimpleNamespace(last_hidden_state=found.last_hidden_state)

    def page(self, page: Page) -> torch.Tensor:
        """Hidden states [T, hidden] of one page."""
        device = self.vlm.get_input_embeddings().weight.device
        ids = page.ids.to(device)[None]
        states = self.vlm.get_input_embeddings()(ids)
        grid = torch.tensor([[1, *page.grid]], device=device)
        patches = self.vlm.visual(page.patches.to(device, states.dtype), grid_thw=grid)
        seen = patches if isinstance(patches, torch.Tensor) else patches.pooler_output  # of transformers 4 and 5
        states = states.masked_scatter((ids == self._patch_id)[..., None], seen.to(states.dtype))
        places = positions(page, self._patch_id, self._merge).to(device)[:, None]
        found = self.vlm.language_model(inputs_embeds=states, position_ids=places, use_cache=False)
        hidden: torch.Tensor = found.last_hidden_state[0]
        return hidden


def positions(page: Page, patch_id: int, merge: int) -> torch.Tensor:
    """Places of a page's tokens in time, height and width [3, T]; after the image they go on from its longer side."""
    inside = (page.ids == patch_id).nonzero()[:, 0]
    start, count = int(inside[0]), len(inside)
    high, wide = (n // merge for n in page.grid)
    rows, columns = torch.arange(high).repeat_interleave(wide), torch.arange(wide).repeat(high)
    image = torch.stack([torch.zeros(count, dtype=torch.long), rows, columns]) + start
    before = torch.arange(start).expand(3, -1)
    after = torch.arange(len(page.ids) - start - count).expand(3, -1) + start + max(high, wide)
    return torch.cat([before, image, after], dim=1)
