"""Whether ONNX Runtime or OpenVINO encodes a query faster than torch on a CPU.

    pip install onnx onnxruntime openvino
    python -m benchmarks.query_encoding

One query after the other through the bundled starter, as the encoder does it: ids and mask [1, 32] to vectors of 128
dimensions, in float32. They take turns, all queries at a time, with the same number of threads; tokenizing is left out.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import record
from colbert_rerank import trec
from colbert_rerank.encoder import Encoder

REPEATS = 20  # of all queries
SETTLE = 0.5  # seconds
WANTED = 1.5  # times as fast as torch, to be worth another dependency

Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]


class Vectors(torch.nn.Module):
    """Ids and mask to vectors, as one network."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone, self.head = encoder.backbone, encoder.head

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize(self.head(hidden), dim=-1)


def main() -> None:
    encoder = Encoder.load(device="cpu")
    topics = Path(str(files("colbert_rerank") / "data" / "musique_mini")) / "queries.jsonl"
    tokens = encoder.tokenize_queries([query.text for query in trec.read_topics(str(topics))])
    inputs = []
    for token in tokens:
        mask = np.zeros((1, len(token.ids)), dtype=np.int64)
        mask[0, : token.attended] = 1
        inputs.append((np.array([token.ids], dtype=np.int64), mask))
    threads = torch.get_num_threads()
    network = Vectors(encoder).eval()
    peers: dict[str, Forward] = {"torch": _torch(network), "torch, traced and frozen": _frozen(network, inputs[0])}
    with tempfile.TemporaryDirectory() as folder:
        peers["onnxruntime"] = _onnxruntime(network, inputs[0], Path(folder) / "model.onnx", threads)
    peers["openvino"] = _openvino(network, inputs[0], threads)
    times: dict[str, list[float]] = {name: [] for name in peers}
    worst = dict.fromkeys(peers, 0.0)
    known: list[npt.NDArray[np.float32]] = []
    for repeat, (name, forward) in itertools.product(range(REPEATS + 1), peers.items()):
        time.sleep(SETTLE)  # until the threads of the one before no longer wait for work
        for number, (ids, mask) in enumerate(inputs):
            start = time.perf_counter()
            vectors = forward(ids, mask)
            times[name].append(1000 * (time.perf_counter() - start))
            if repeat == 0 and name == "torch":
                known.append(vectors)
            worst[name] = max(worst[name], float(np.abs(vectors - known[number]).max()))
    rows = []
    for name, all_times in times.items():
        p10, median, p90 = np.percentile(all_times[len(inputs) :], [10, 50, 90])  # the first round warms up
        rows.append(
            {"name": name, "p10_ms": p10, "median_ms": median, "p90_ms": p90, "threads": threads, "worst": worst[name]}
        )
    best = min(row["median_ms"] for row in rows)
    more = {name: version(name) for name in ("onnx", "onnxruntime", "openvino")}
    record.write(
        Path(__file__).parent / "results" / "query_encoding.json",
        rows,
        peers=more,
        queries=len(inputs),
        repeats=REPEATS,
        speedup=rows[0]["median_ms"] / best,
        wanted=WANTED,
    )


def _torch(network: torch.nn.Module) -> Forward:
    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            found: npt.NDArray[np.float32] = network(torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
            return found

    return forward


def _frozen(network: torch.nn.Module, example: tuple[Any, Any]) -> Forward:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own tracing
        trace: Any = torch.jit.trace
        traced = trace(network, tuple(map(torch.from_numpy, example)), check_trace=False)
        return _torch(torch.jit.optimize_for_inference(torch.jit.freeze(traced)))


def _onnxruntime(network: torch.nn.Module, example: tuple[Any, Any], path: Path, threads: int) -> Forward:
    import onnxruntime

    tensors = tuple(map(torch.from_numpy, example))
    torch.onnx.export(network, tensors, str(path), input_names=["ids", "mask"], output_names=["vectors"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["vectors"], {"ids": ids, "mask": mask})[0][0]


def _openvino(network: torch.nn.Module, example: tuple[Any, Any], threads: int) -> Forward:
    import openvino

    model = openvino.convert_model(network, example_input=tuple(map(torch.from_numpy, example)))
    model.reshape({port: list(example[0].shape) for port in model.inputs})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = request.infer([ids, mask])[0][0].copy()
        return found

    return forward


if __name__ == "__main__":
    main()
