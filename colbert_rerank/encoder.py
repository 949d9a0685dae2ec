"""Texts to token vectors, by the rules of the checkpoint's `EncoderSpec`.

A text's vectors depend on that text alone, to the bit. Matrix libraries pick their kernels by shape, so every forward
pass has a shape that follows from the text's own length: documents are padded to a multiple of ``BUCKET`` tokens and
go through in batches of a size fixed for that length, filled up with blanks where documents run out; queries in
batches of a fixed size too. That is what makes a resumed ingest bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank import passes
from colbert_rerank.checkpoints import AS_MEANT, PROBES, Checkpoint, Choices, load_checkpoint
from colbert_rerank.checkpoints.location import public_name
from colbert_rerank.checkpoints.spec import BUCKET, EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError, InputError, NonFiniteError, UsageError
from colbert_rerank.pooling import pooled
from colbert_rerank.types import PageImage

if TYPE_CHECKING:
    import torch

    from colbert_rerank.graphed_network import GraphedNetwork
    from colbert_rerank.network import Network
    from colbert_rerank.onnx_network import OnnxNetwork

# Tokens in one forward pass: on a CPU more only spills the caches, on a GPU fewer leave it idle.
BATCH_TOKENS = {"cpu": 1024, "cuda": 8192, "mps": 8192}
QUERY_BATCH = {"cpu": 1, "cuda": 32, "mps": 8}
DTYPES = ("fp32", "fp16", "bf16")
QUERY_BACKENDS = ("torch", "onnx")
# Of a backend's query vectors, as a share of the longest: float32 gives 1e-6, another network far more.
BACKEND_TOLERANCE = 1e-4


class Tokens(NamedTuple):
    """One text, or one page, as the network reads it.

    ``attended`` counts the ids that attention sees (the rest is a query's expansion); ``truncated`` the tokens of the
    text that did not fit.
    """

    ids: list[int]
    attended: int
    truncated: int
    page: PageImage | None = None  # whose patches stand among the ids
    more: tuple[Tokens, ...] = ()  # the further windows of a long text

    @property
    def windows(self) -> tuple[Tokens, ...]:
        return (self, *self.more)

    @property
    def size(self) -> int:
        """Tokens of all windows."""
        return sum(len(one.ids) for one in self.windows)


class QueryVectors(NamedTuple):
    """A query as it was encoded: ``vectors`` [Lq, dim], and how many tokens of its text did not fit."""

    vectors: npt.NDArray[np.float32]
    truncated: int


@dataclass(frozen=True)
class Encoder:
    """A checkpoint on a device. Make one with `Encoder.load`."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: str  # of the computation: "fp32", "fp16" or "bf16"
    network: Network
    query_network: OnnxNetwork | GraphedNetwork | None = None  # for queries, in place of ``network``

    @staticmethod
    def load(
        model: str | Checkpoint = "starter",
        *,
        device: str = "auto",
        dtype: str = "auto",
        choices: Choices = AS_MEANT,
        query_backend: str = "torch",
    ) -> Encoder:
        """Load ``model`` onto ``device`` ("auto", "cpu", "cuda", "cuda:1", "mps").

        ``dtype`` "auto" is fp32 on a CPU and fp16 on a GPU. ``query_backend`` "onnx" encodes queries by ONNX Runtime:
        for a CPU, in fp32; loading takes seconds longer. Raises CheckpointError, and UsageError for a device that is
        not there.
        """
        import torch

        from colbert_rerank.network import Network

        if not isinstance(model, str) and choices != AS_MEANT:
            raise UsageError("choices are made when a checkpoint is loaded: pass its name")
        where = _device(device)
        if dtype == "auto":
            dtype = "fp32" if where.type == "cpu" else "fp16"
        if dtype not in DTYPES:
            raise UsageError(f"unknown dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
        if dtype == "fp16" and where.type == "cpu":
            raise UsageError("fp16 is slower than fp32 on a CPU: use fp32, or bf16 where the CPU has it")
        if query_backend not in QUERY_BACKENDS:
            raise UsageError(f"unknown query backend {query_backend!r}: expected {' or '.join(QUERY_BACKENDS)}")
        if query_backend == "onnx" and (where.type, dtype) != ("cpu", "fp32"):
            raise UsageError(f"the query backend onnx is for a CPU and fp32; this is {where.type} and {dtype}")
        checkpoint = load_checkpoint(model, choices) if isinstance(model, str) else model
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        network = Network(checkpoint.backbone, checkpoint.head, normalized=checkpoint.spec.normalize).eval()
        if dtype != "fp32" or where.type != "cpu":  # the checkpoint's own modules stay as they were loaded
            import copy

            network = copy.deepcopy(network)
        encoder = Encoder(checkpoint, where, dtype, network.to(where, kind))
        if query_backend == "onnx":
            return encoder._with_onnx()
        if where.type == "cuda":
            from colbert_rerank.graphed_network import GraphedNetwork, capturable

            if not capturable():
                return encoder
            return replace(encoder, query_network=GraphedNetwork(encoder.network, where))
        return encoder

    @property
    def dim(self) -> int:
        return self.checkpoint.spec.dim

    def tokenize_queries(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text between prefix and suffix, and then its expansion."""
        spec = self.checkpoint.spec
        found = self._tokenize(texts, spec.query)
        return [_expanded(tokens, spec.expansion, spec) for tokens in found] if spec.expansion else found

    def tokenize_documents(self, texts: Sequence[str], *, stride: int = 0) -> list[Tokens]:
        """Each text between prefix and suffix, cut to the model's length for documents.

        With a ``stride``, a text too long for that is not cut: it becomes several windows, one every so many tokens.
        Raises UsageError for a stride that leaves tokens out, and for a model of page images that was not told to.
        """
        spec = self.checkpoint.spec
        if not spec.text_documents:
            raise UsageError(
                f"{public_name(self.checkpoint.name)}: its documents are page images, not texts. It was never trained "
                "to find texts; to let it try all the same, choose --text-documents"
            )
        leave_out = spec.skip_ids if spec.skip_before else ()
        if not stride:
            return self._tokenize(texts, spec.document, leave_out)
        room = spec.document.room
        if spec.document.prompt:
            raise UsageError(f"{self.checkpoint.name}: its documents have a prompt, which only a first window would")
        if not 0 < stride <= room:
            raise UsageError(f"a stride of {stride} tokens: windows of this model hold 1 to {room}")
        whole = self._tokenize(texts, replace(spec.document, length=sys.maxsize), leave_out)
        return [_windows(tokens, spec.document, stride) for tokens in whole]

    def encode_queries(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """One matrix [Lq, dim] a text, expansion included. Raises NonFiniteError where it holds NaN or infinity."""
        return self.encode_query_tokens(self.tokenize_queries(texts), texts)

    def encode_query(self, text: str) -> QueryVectors:
        """One text. Raises NonFiniteError."""
        tokens = self.tokenize_queries([text])
        (vectors,) = self.encode_query_tokens(tokens, [text])
        return QueryVectors(vectors, tokens[0].truncated)

    def encode_query_tokens(self, tokens: Sequence[Tokens], texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """As `encode_queries`, for tokenized queries; ``texts`` are only for messages."""
        first = self.checkpoint.spec.first_row
        matrices: dict[int, npt.NDArray[np.float32]] = {}
        for positions, length in self._query_batches(tokens):
            batch = [tokens[i] for i in positions]
            vectors = self._forward_queries(batch, QUERY_BATCH[self.device.type], length)
            for i, rows in zip(positions, vectors, strict=False):  # blanks at the end have no position
                matrices[i] = rows[first : len(tokens[i].ids)]
                if not np.isfinite(matrices[i]).all():
                    raise NonFiniteError(f"query {texts[i]!r}: its vectors hold NaN or infinity")
        return [matrices[i] for i in range(len(tokens))]

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.floating]]:
        """One matrix [T, dim] a text, in the order given; T leaves out the tokens of the skip list."""
        return self.encode_tokens(self.tokenize_documents(texts))

    def tokenize_pages(self, pages: Sequence[PageImage]) -> list[Tokens]:
        """Each page's patches within their prompt. Raises UsageError for a model that reads texts."""
        reader = self.checkpoint.reader
        if reader is None:
            raise UsageError(f"{self.checkpoint.name}: its documents are texts; it reads no page images")
        ids = [reader.ids(page.size()) for page in pages]
        return [Tokens(one, len(one), 0, page) for one, page in zip(ids, pages, strict=True)]

    def encode_pages(self, pages: Sequence[PageImage]) -> list[npt.NDArray[np.floating]]:
        """One matrix [T, dim] a page, T its patches and the prompt around them. Raises as `tokenize_pages`."""
        return self.encode_tokens(self.tokenize_pages(pages))

    def encode_tokens(
        self, tokens: Sequence[Tokens], dtype: npt.DTypeLike = np.float32, *, pool_factor: int = 1
    ) -> list[npt.NDArray[np.floating]]:
        """As `encode_documents`, for tokenized documents; cast to ``dtype``, float16 or float32.

        Windows of one document are one matrix. With a ``pool_factor`` each is pooled (see `pooling`).

        Raises NonFiniteError where a document's vectors hold NaN or infinity.
        """
        matrices: dict[int, npt.NDArray[np.floating]] = {}
        for batch in self.encode_batches(tokens, dtype, pool_factor=pool_factor):
            matrices.update(batch)
        for i, matrix in matrices.items():
            if not np.isfinite(matrix).all():
                raise NonFiniteError(f"document number {i}: its vectors hold NaN or infinity")
        return [matrices[i] for i in range(len(tokens))]

    def passes(self, tokens: Sequence[Tokens]) -> list[list[int]]:
        """Positions of the documents that one forward pass has room for, by pass: the first ones first.

        It takes as long for fewer of them.
        """
        sizes = [(len(one.ids), len(one.windows)) for one in tokens]
        return passes.together(sizes, BATCH_TOKENS[self.device.type])

    def encode_batches(
        self, tokens: Sequence[Tokens], dtype: npt.DTypeLike = np.float32, *, pool_factor: int = 1
    ) -> Iterator[dict[int, npt.NDArray[np.floating]]]:
        """As `encode_tokens`, one forward pass after another: the matrices of its documents by their positions.

        Whether they are finite is for the caller to look at.
        """
        windows = [(position, window) for position, one in enumerate(tokens) for window in one.windows]
        missing = Counter(position for position, _ in windows)
        found: dict[int, dict[int, npt.NDArray[np.floating]]] = {}
        for batch in self._encode_windows([window for _, window in windows], "float32" if pool_factor > 1 else dtype):
            whole = {}
            for number, rows in batch.items():
                position = windows[number][0]
                kept = pooled(rows, pool_factor).astype(dtype) if pool_factor > 1 else rows
                found.setdefault(position, {})[number] = kept
                missing[position] -= 1
                if not missing[position]:
                    parts = found.pop(position)
                    whole[position] = np.concatenate([parts[i] for i in sorted(parts)]) if len(parts) > 1 else kept
            yield whole

    def _encode_windows(
        self, tokens: Sequence[Tokens], dtype: npt.DTypeLike
    ) -> Iterator[dict[int, npt.NDArray[np.floating]]]:
        """Each window's matrix by its position, one forward pass after another."""
        import torch

        spec = self.checkpoint.spec
        skip = torch.tensor(spec.skip_ids)
        half = np.dtype(dtype) == np.float16
        for position, token in enumerate(tokens):
            if token.page is not None:  # one at a time: a page is as large as a batch of texts
                rows = self._page(token).to(torch.float16 if half else torch.float32).cpu().numpy()
                yield {position: rows}
        texts = [position for position, token in enumerate(tokens) if token.page is None]
        for places, size, length in passes.batches([len(tokens[i].ids) for i in texts], BATCH_TOKENS[self.device.type]):
            positions = [texts[place] for place in places]
            batch = [tokens[i] for i in positions]
            vectors = self._forward(batch, size, length)
            keep = torch.zeros(size, length, dtype=torch.bool)
            for row, token in enumerate(batch):
                keep[row, spec.first_row : len(token.ids)] = ~torch.isin(
                    torch.tensor(token.ids[spec.first_row :]), skip
                )
            packed = vectors[keep.to(vectors.device)].to(torch.float16 if half else torch.float32).cpu().numpy()
            ends = keep.sum(dim=1).cumsum(0).tolist()
            # blanks at the end have no position
            yield {i: packed[start:end] for i, start, end in zip(positions, [0, *ends], ends, strict=False)}

    def _query_batches(self, tokens: Sequence[Tokens]) -> Iterator[tuple[list[int], int]]:
        """Positions of the queries of one forward pass, and its length: of those that are filled up, their own."""
        expansion, lengths = self.checkpoint.spec.expansion, [len(t.ids) for t in tokens]
        if expansion is None or expansion.count is not None:
            lengths = [-(-length // BUCKET) * BUCKET for length in lengths]
        for length in sorted(set(lengths)):
            positions, size = [i for i, other in enumerate(lengths) if other == length], QUERY_BATCH[self.device.type]
            for start in range(0, len(positions), size):
                yield positions[start : start + size], length

    def _tokenize(self, texts: Sequence[str], rules: TextRules, leave_out: Collection[int] = ()) -> list[Tokens]:
        room = rules.room
        out = []
        plain = [self._prepared(rules.prompt + text) for text in texts]
        try:
            encodings = self.checkpoint.tokenizer.backend_tokenizer.encode_batch(plain, add_special_tokens=False)
        except TypeError:  # of Rust, which cannot hold them
            raise InputError("a text is no string, or holds half of a surrogate pair, which is no character") from None
        for encoding in encodings:
            text = [i for i in encoding.ids if i not in leave_out] if leave_out else encoding.ids
            ids = [*rules.prefix_ids, *text[:room], *rules.suffix_ids]
            out.append(Tokens(ids, len(ids), max(0, len(text) - room)))
        return out

    def _page(self, token: Tokens) -> torch.Tensor:
        """Vectors [T, dim] of one page."""
        import torch

        reader = self.checkpoint.reader
        if reader is None or token.page is None:
            raise UsageError("these are tokens of a text")
        with torch.inference_mode():
            return self.network.page(reader.read(token.page.open()))

    def _prepared(self, text: str) -> str:
        spec = self.checkpoint.spec
        stripped = text.strip() if spec.strip else text
        return stripped.lower() if spec.lowercase else stripped

    def _with_onnx(self) -> Encoder:
        """With queries by ONNX Runtime. Raises CheckpointError where it gives other vectors than torch."""
        from colbert_rerank.onnx_network import OnnxNetwork

        other = replace(self, query_network=OnnxNetwork(self.network))
        probes = [*PROBES, " ".join(PROBES * 4)]  # short ones, and one longer than an exporter's shortcuts hold for
        for want, got in zip(self.encode_queries(probes), other.encode_queries(probes), strict=True):
            if np.abs(got - want).max() > BACKEND_TOLERANCE * np.abs(want).max():
                raise CheckpointError(
                    f"{self.checkpoint.name}: ONNX Runtime gives other vectors than torch; use the query backend torch"
                )
        return other

    def _forward_queries(self, batch: Sequence[Tokens], size: int, length: int) -> npt.NDArray[np.float32]:
        """As `_forward`, in float32."""
        if self.query_network is not None:
            return self.query_network(*self._inputs(batch, size, length))
        vectors: npt.NDArray[np.float32] = self._forward(batch, size, length).float().cpu().numpy()
        return vectors

    def _forward(self, batch: Sequence[Tokens], size: int, length: int) -> torch.Tensor:
        """Vectors [size, length, dim] of a batch that is filled up to ``size`` texts of ``length`` tokens."""
        import torch

        ids, mask = self._inputs(batch, size, length)
        with torch.inference_mode():
            vectors: torch.Tensor = self.network(ids.to(self.device), mask.to(self.device))
            return vectors

    def _inputs(self, batch: Sequence[Tokens], size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask [size, length]."""
        import torch

        ids = torch.full((size, length), self.checkpoint.spec.pad_id)
        mask = torch.zeros(size, length, dtype=torch.long)
        mask[:, 0] = 1  # a blank attends to one token: softmax over none is NaN
        for row, token in enumerate(batch):
            ids[row, : len(token.ids)] = torch.tensor(token.ids)
            mask[row, : token.attended] = 1
        return ids, mask


def _windows(tokens: Tokens, rules: TextRules, stride: int) -> Tokens:
    """A text that was not cut, as windows of the model's length; the last one ends with the text."""
    before, after, room = list(rules.prefix_ids), list(rules.suffix_ids), rules.room
    text = tokens.ids[len(before) : len(tokens.ids) - len(after)]
    if len(text) <= room:
        return tokens
    starts = range(0, len(text) - room + stride, stride)
    first, *more = ([*before, *text[start : start + room], *after] for start in starts)
    return Tokens(first, len(first), 0, more=tuple(Tokens(ids, len(ids), 0) for ids in more))


def _expanded(tokens: Tokens, expansion: Expansion, spec: EncoderSpec) -> Tokens:
    ids, count = tokens.ids, expansion.count
    if count is None:
        # colbert-ai turns every padding id into [MASK], a "[PAD]" in the text itself too, which stays attended to
        ids = [expansion.token_id if i == spec.pad_id else i for i in ids]
        count = spec.query.length - len(ids)
    full = [*ids, *[expansion.token_id] * count]
    return Tokens(full, len(full) if expansion.attended else len(ids), tokens.truncated)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in BATCH_TOKENS:
        raise UsageError(f"device {name!r} is not supported: expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: {torch.cuda.device_count()} CUDA device(s) here; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': no Apple GPU here; use --device cpu")
    return device
