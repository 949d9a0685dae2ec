"""Another library, scoring the same documents in a process of its own. Run by path, by any Python that has it.

    PYTHON peer.py NAME QUERY.npy VECTORS.npy OFFSETS.npy THREADS

First goes out {"version"}. Lines come in on stdin, each a JSON list of document numbers; for each goes out {"ms",
"scores"}. The matrices of the documents are in memory, that of the GPU for a library that uses it, before the clock
starts, in the form that the library asks for.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

L2 = 256 << 20  # bytes; more than the last cache of any GPU


def maxsim_cpu(query: Any, matrices: list[Any]) -> Callable[[], Any]:
    import maxsim_cpu as library

    return lambda: library.maxsim_scores_variable(query, matrices)


def pylate(query: Any, matrices: list[Any]) -> Callable[[], Any]:
    from pylate import rank

    ids = list(range(len(matrices)))

    def scores() -> list[float]:
        found = rank.rerank(documents_ids=[ids], queries_embeddings=[query], documents_embeddings=[matrices])
        by_id = {one["id"]: float(one["score"]) for one in found[0]}
        return [by_id[number] for number in ids]

    return scores


def late_interaction_kernels(query: Any, matrices: list[Any]) -> Callable[[], Any]:
    import late_interaction_kernels as library

    Q, D = on_device(query), on_device(matrices)
    return lambda: library.maxsim(Q[None], D)[0]


def flash_maxsim(query: Any, matrices: list[Any]) -> Callable[[], Any]:
    import flash_maxsim as library

    Q, D = on_device(query), on_device(matrices)
    return lambda: library.flash_maxsim(Q, D)


LIBRARIES = {
    "maxsim_cpu": maxsim_cpu,
    "pylate": pylate,
    "late_interaction_kernels": late_interaction_kernels,
    "flash_maxsim": flash_maxsim,
}
WITH_TORCH = ("pylate", "late_interaction_kernels", "flash_maxsim")
ON_GPU = ("late_interaction_kernels", "flash_maxsim")


def main() -> None:
    import numpy as np

    name, query, vectors, offsets, threads = sys.argv[1:]
    prepare = LIBRARIES[name]
    Q, V, begins = np.load(query), np.load(vectors), np.load(offsets).tolist()
    if name in WITH_TORCH:
        import torch

        torch.set_num_threads(int(threads))
    prepare(Q, [V[: begins[1]]])()  # imports, and whatever else is done once
    _say({"version": _version(name)})
    for line in sys.stdin:
        matrices = [V[begins[number] : begins[number + 1]] for number in json.loads(line)]
        work = prepare(Q, matrices)
        ms, scores = (device_ms if name in ON_GPU else _wall_ms)(work)
        _say({"ms": ms, "scores": [float(score) for score in scores]})


def on_device(vectors: Any) -> Any:
    """A float16 tensor on the GPU; where there is none, on the CPU."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(vectors, np.float16)).to("cuda" if torch.cuda.is_available() else "cpu")


def device_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds on the GPU, whose last cache holds something else when they begin; and the result."""
    import torch

    if not torch.cuda.is_available():
        return _wall_ms(work)
    torch.cuda.synchronize()
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.empty(L2, dtype=torch.uint8, device="cuda").zero_()  # and keeps it busy until the work is queued
    start.record()
    found = work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end), found


def _wall_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return 1000 * (time.perf_counter() - start), found


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
