"""Pages of documents on disk, and the small model that reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

PARITY = Path(__file__).parent / "parity"
MODEL = PARITY / "checkpoints" / "colqwen2"
NAMES = ("a_exact", "b_rounded", "c_shrunk")
IDS = ["report.pdf#1", "report.pdf#2", "report.pdf#3", "sub/scan.png"]


def make_pages(folder: Path) -> Path:
    """A PDF of three pages, and an image below it: their ids are `IDS`."""
    (folder / "sub").mkdir(parents=True)
    first, *others = (Image.open(PARITY / "pages" / f"{name}.png").convert("RGB") for name in NAMES)
    first.save(folder / "report.pdf", save_all=True, append_images=others)
    shutil.copy(PARITY / "pages" / "c_shrunk.png", folder / "sub" / "scan.png")
    return folder
