"""Page images: image files, and the pages of PDF files, for models that read pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colbert_rerank.errors import InputError, MissingDependencyError
from colbert_rerank.recipe import PAGE_DIGEST
from colbert_rerank.types import Document
from ingest.sources.source import visible_files
from ingest.validation import InputReport

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
PDF = ".pdf"
DPI = 200  # a page of A4 is 1654 x 2339 pixels, of which a model sees what it can
_POINTS = 72  # to an inch
_CHUNK = 1 << 20


def is_pages(path: Path) -> bool:
    """Whether a file is an image or a PDF by its name, or a folder holds nothing else."""
    if path.is_dir():
        found = list(visible_files(path))
        return bool(found) and all(is_pages(file) for file in found)
    return path.suffix.lower() in (*IMAGES, PDF)


class PagesSource:
    """One document a page. Ids are paths below the folder, of files of several pages with ``#`` and a number from 1.

    The fields: ``title`` (the file's name), ``text`` (of a PDF's page, as far as it holds text and not only an image;
    for a first stage, it is not encoded), ``file``, ``page`` and ``page_digest``.
    """

    def __init__(self, path: str, report: InputReport) -> None:
        self.kind: Final = "pages"
        self.name: Final = path
        self._report = report

    def __iter__(self) -> Iterator[Document]:
        root = Path(self.name)
        for path in filter(is_pages, visible_files(root)) if root.is_dir() else [root]:
            name = str(path.relative_to(root)) if root.is_dir() else path.name
            try:
                yield from _pdf(path, name) if path.suffix.lower() == PDF else _image(path, name)
            except InputError as error:
                self._report.refuse("unreadable page", str(error).removeprefix(f"{error.where}: "), error.where)


@dataclass(frozen=True)
class ImageFile:
    """A `PageImage` of an image file, or of one of the pages of a TIFF file, its ``number`` from 0."""

    path: Path
    number: int = 0

    def size(self) -> tuple[int, int]:
        with _reading(self.path), _pillow().open(self.path) as image:
            image.seek(self.number)
            width, height = image.size
            return int(width), int(height)

    def open(self) -> Image:
        with _reading(self.path), _pillow().open(self.path) as image:
            image.seek(self.number)
            image.load()
            copy: Image = image.copy()
            return copy


@dataclass(frozen=True)
class PdfPage:
    """A `PageImage` of a page of a PDF, its ``number`` from 0."""

    path: Path
    number: int

    def size(self) -> tuple[int, int]:
        with _reading(self.path), _opened(self.path) as pdf:
            return _pixels(pdf[self.number])

    def open(self) -> Image:
        with _reading(self.path), _opened(self.path) as pdf:
            page = pdf[self.number]
            size, rendered = _pixels(page), page.render(scale=DPI / _POINTS).to_pil()
            found: Image = rendered if rendered.size == size else rendered.resize(size)
            return found


def _pixels(page: Any) -> tuple[int, int]:
    """Width and height of a PDF's page, as it is rendered."""
    width, height = page.get_size()
    return round(width * DPI / _POINTS), round(height * DPI / _POINTS)


def _image(path: Path, name: str) -> Iterator[Document]:
    with _reading(path), _pillow().open(path) as image:
        image.load()  # what cannot be read is refused here, by its name
        count = int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
    digest = _digest(path)
    if count == 1:
        yield Document(name, _fields(path, name, digest, 1, ""), str(path), page=ImageFile(path))
        return
    for number in range(count):
        fields = _fields(path, name, f"{digest}#{number + 1}", number + 1, "")
        yield Document(f"{name}#{number + 1}", fields, f"{path}#{number + 1}", page=ImageFile(path, number))


def _pdf(path: Path, name: str) -> Iterator[Document]:
    digest = _digest(path)
    with _reading(path), _opened(path) as pdf:
        for number in range(len(pdf)):
            text = pdf[number].get_textpage().get_text_bounded()
            fields = _fields(path, name, f"{digest}#{number + 1}@{DPI}", number + 1, text)
            yield Document(f"{name}#{number + 1}", fields, f"{path}#{number + 1}", page=PdfPage(path, number))


def _digest(path: Path) -> str:
    with _reading(path), path.open("rb") as file:
        whole = hashlib.sha256()
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            whole.update(chunk)
        return whole.hexdigest()


def _fields(path: Path, name: str, digest: str, number: int, text: str) -> dict[str, object]:
    known = {"title": path.stem, "file": name, "page": number, PAGE_DIGEST: digest}
    return known | ({"text": text} if text.strip() else {})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what Pillow and pdfium raise for a damaged or locked file into InputError."""
    try:
        yield
    except (MissingDependencyError, InputError):
        raise
    except Exception as error:  # both have errors of many kinds
        problem = str(error) or type(error).__name__
        raise InputError(f"cannot be read as a page image: {problem}", where=str(path)) from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pypdfium2
    except ImportError:
        raise MissingDependencyError("PDF pages", "pypdfium2") from None
    pdf = pypdfium2.PdfDocument(path)
    try:
        yield pdf
    finally:
        pdf.close()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependencyError("page images", "pillow") from None
    return Image
