"""Another library, scoring the same documents in a process of its own. Run by path, by any Python that has it.

    PYTHON peer.py NAME VECTORS.npy QUERY.npy TOKENS THREADS

Lines come in on stdin, each a JSON list of document numbers; for each goes out {"ms", "scores"}. The matrices of the
documents are in memory before the clock starts, in the form that the library asks for.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


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


LIBRARIES = {"maxsim_cpu": maxsim_cpu, "pylate": pylate}


def main() -> None:
    import numpy as np

    name, vectors, query, tokens, threads = sys.argv[1:]
    prepare = LIBRARIES[name]
    V, Q, T = np.load(vectors), np.load(query), int(tokens)
    if name == "pylate":
        import torch

        torch.set_num_threads(int(threads))
    prepare(Q, [V[:T]])()  # imports, and whatever else is done once
    _say("ready")
    for line in sys.stdin:
        matrices = [V[number * T : (number + 1) * T] for number in json.loads(line)]
        work = prepare(Q, matrices)
        start = time.perf_counter()
        scores = work()
        ms = 1000 * (time.perf_counter() - start)
        _say({"ms": ms, "scores": [float(score) for score in scores]})


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
