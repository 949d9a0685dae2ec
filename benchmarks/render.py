"""Write the tables of the README and of docs from the recorded JSON.

    python -m benchmarks.render [--check]

``--check`` writes nothing and fails where a page differs from what is recorded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CHECKPOINTS = HERE.parent / "docs" / "checkpoints.md"
NAMES = {"dl19": "TREC DL19", "scifact": "SciFact", "cranfield": "Cranfield", "musique_mini": "MuSiQue (bundled)"}


def quality(data: dict[str, Any]) -> str:
    lines = [
        "The bundled starter (22 M parameters) re-ranking the first stage's top 100, vectors in fp16:",
        "",
        "| collection | first stage | queries | measure | first stage | re-ranked |",
        "|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        for i, measure in enumerate(row["before"]):
            head = [NAMES[row["collection"]], row["first_stage"], str(row["queries"])] if i == 0 else ["", "", ""]
            lines.append(f"| {' | '.join([*head, measure, f4(row['before'][measure]), f4(row['after'][measure])])} |")
    notes = [
        "DL19: the official BM25 run over the whole of MS MARCO, `qrels/full.tsv`.",
        "Cranfield: `qrels/test.tsv`, which counts each query's own source paper as relevant; two empty documents are "
        "left out.",
    ]
    return "\n".join([*lines, "", " ".join(notes), source("quality", data)])


def speed(data: dict[str, Any]) -> str:
    depths = sorted({row["k"] for row in data["rows"]})
    stages = list(dict.fromkeys(row["stage"] for row in data["rows"]))
    cells = {(row["k"], row["stage"]): row for row in data["rows"]}
    lines = [
        f"Milliseconds a query on {data['machine']['cores']} CPU cores, {NAMES[data['collection']]}, one query at a "
        "time, median (10th to 90th percentile), after the same queries were asked once:",
        "",
        f"| stage | {' | '.join(f'k = {k:,}' for k in depths)} |",
        f"|---|{'---|' * len(depths)}",
    ]
    for stage in stages:
        row = [
            f"{cells[k, stage]['median_ms']:.1f} ({cells[k, stage]['p10_ms']:.1f} to {cells[k, stage]['p90_ms']:.1f})"
            for k in depths
        ]
        lines.append(f"| {LABELS.get(stage, stage)} | {' | '.join(row)} |")
    t = data["throughput"]
    lines += [
        "",
        f"Ingest runs at {t['ratio']:.0%} of the encoder alone on the same {t['documents']:,} documents in memory "
        f"({t['ingest_documents_s']:.0f} against {t['encoder_documents_s']:.0f} documents a second, median of "
        f"{t['repeats']}). The store takes {t['overhead']:.1%} more than its raw fp16 vectors.",
        source("speed", data),
    ]
    return "\n".join(lines)


def store(data: dict[str, Any]) -> str:
    lines = [
        f"Gathering the token vectors of random documents ({data['tokens']} vectors each, {data['dim']} dimensions, "
        f"fp16) from a store of {data['stored']:,}, in milliseconds (median), beside one plain copy of the same bytes "
        "and beside h5py:",
        "",
        "| segments | documents | gather | plain copy | h5py, a slice a document | fancy indexing | first touch |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        ms = [row[f"{name}_ms"] for name in ("gather", "copy", "h5py_slices", "h5py_fancy", "first_touch")]
        cells = [f"{row['segments']:,}", f"{row['documents']:,}", *(f"{value:,.1f}" for value in ms)]
        lines.append(f"| {' | '.join(cells)} |")
    note = "The first touch is of a store just opened; it compares the checksums of what it reads. Fancy indexing is "
    note += "of 200 documents, as many times as they fit."
    return "\n".join([*lines, "", note, source("store", data)])


def large(data: dict[str, Any]) -> str:
    ms = {name: median(row[f"{name}_ms"] for row in data["rows"]) for name in ("open", "lookup", "lookup_p90")}
    memory = max(row["anonymous_bytes"] for row in data["rows"])
    text = (
        f"A store of {data['documents']:,} documents ({data['tokens']} vectors each, {data['dim']} dimensions, "
        f"{data['codec']}; {data['bytes'] / 1e9:.1f} GB in {data['segments']} segments) is opened in "
        f"{ms['open']:.0f} ms, and a process without torch then has {memory / 1e6:.0f} MB of memory of its own. "
        f"{data['asked']:,} ids are looked up in {ms['lookup']:.2f} ms (90th percentile {ms['lookup_p90']:.2f}; "
        f"medians of {len(data['rows'])} processes)."
    )
    return f"{text}\n{source('large', data)}"


def codecs(data: dict[str, Any]) -> str:
    names = list(dict.fromkeys(row["collection"] for row in data["rows"]))
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in data["rows"]:
        case = (row["codec"], row["sketches"], row["rescore"], row["pool_factor"])
        cases.setdefault(case, []).append(row)
    lines = [
        f"What it costs in quality: the change of nDCG@10 against {data['exact']}, and in brackets the share of "
        "queries with the same ten best documents, in any order:",
        "",
        f"| stored as | bytes a vector | {' | '.join(NAMES[name] for name in names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for (codec, sketches, rescore, pool_factor), rows in cases.items():
        label = f"{codec}, {sketches} beside it, `--rescore {rescore}`" if sketches else codec
        label += f", `--pool-factor {pool_factor}`" if pool_factor > 1 else ""
        size = f"{rows[0]['row_bytes']}"
        if pool_factor > 1:
            size = (
                f"{size}, of {sum(row['vectors'] for row in rows) / sum(whole(data, row) for row in rows):.0%} of them"
            )
        found = {row["collection"]: f"{row['change']:+.4f} ({row['same_ten']:.0%})" for row in rows}
        lines.append(f"| {' | '.join([label, size, *(found[name] for name in names)])} |")
    bytes_of_books = "A residual codec's codebook is not counted; it weighs some megabytes."
    return "\n".join([*lines, "", bytes_of_books, source("codecs", data)])


def whole(data: dict[str, Any], pooled: dict[str, Any]) -> int:
    """How many vectors the collection has that are not pooled."""
    return max(int(row["vectors"]) for row in data["rows"] if row["collection"] == pooled["collection"])


def query_encoding(data: dict[str, Any]) -> str:
    ms = {(row["backend"], part): row[part]["median_ms"] for row in data["rows"] for part in ("encode", "together")}
    gain = {part: ms["torch", part] / ms["onnx", part] for part in ("encode", "together")}
    load = next(row["load_s"] for row in data["rows"] if row["backend"] == "onnx")
    lines = [
        "On a CPU, `--query-backend onnx` (`pip install onnx onnxruntime`) encodes a query "
        f"{gain['encode']:.1f} times as fast as torch: {ms['onnx', 'encode']:.1f} against "
        f"{ms['torch', 'encode']:.1f} ms, {ms['onnx', 'together']:.1f} against {ms['torch', 'together']:.1f} ms with "
        f"MaxSim and all that follows at k = {data['k']} ({gain['together']:.1f} times; medians). Loading takes "
        f"{load:.1f} s longer, so it is for services and long runs. It is compared with torch when it is loaded, and "
        f"refused where it differs; no score of {data['queries']} queries was further off than "
        f"{data['greatest_score_difference']:.0e}. Documents are always encoded by torch.",
        source("query_encoding", data),
    ]
    return "\n".join(lines)


def parity(data: dict[str, Any]) -> str:
    lines = [
        "The greatest differences from the other implementation, in float32 on a CPU (rows of vectors have length 1, "
        "or are divided by their greatest value; allowed are 1e-5, and 1e-4 for scores):",
        "",
        "| checkpoints | layout | status | held against | rows | scores |",
        "|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        cells = [row["checkpoints"], row["layout"], row["status"], row.get("peer", "")]
        cells += [f"{row[error]:.0e}" if error in row else "" for error in ("row_error", "score_error")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", source("parity", data, "../")])


LABELS = {
    "candidates": "BM25 candidates (OpenSearch)",
    "encode": "encode the query",
    "gather": "gather token vectors",
    "score": "MaxSim",
    "order": "order",
    "total": "**together**",
}


def f4(value: float) -> str:
    return f"{value:.4f}"


def source(name: str, data: dict[str, Any], up: str = "") -> str:
    versions = data["versions"]
    where = f"{data['machine']['processor']}, Python {versions['python']}, torch {versions['torch']}"
    path = f"benchmarks/results/{name}.json"
    return f"Recorded in [{path}]({up}{path}) by `python -m benchmarks.{name}` (commit {data['commit']}, {where})."


PAGES = {README: (quality, codecs, speed, store, large, query_encoding), CHECKPOINTS: (parity,)}


def rendered(page: Path) -> str:
    """The page's text with its tables as they are recorded."""
    text = page.read_text(encoding="utf-8")
    for render in PAGES[page]:
        name = render.__name__
        data = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- /{name} -->\n")
        text = f"{before}<!-- {name} -->\n{render(data)}\n<!-- /{name} -->\n{after}"
    return text


def main() -> None:
    for page in PAGES:
        new = rendered(page)
        if "--check" not in sys.argv[1:]:
            page.write_text(new, encoding="utf-8")
        elif new != page.read_text(encoding="utf-8"):
            sys.exit(f"{page.name} differs from benchmarks/results: run python -m benchmarks.render")


if __name__ == "__main__":
    main()
