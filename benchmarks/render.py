"""Write the tables of the README and of docs from the recorded JSON.

    python -m benchmarks.render [--check]

``--check`` writes nothing and fails where a page differs from what is recorded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from colbert_rerank.bench import rows as table

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CHECKPOINTS = HERE.parent / "docs" / "checkpoints.md"
SCORING = HERE.parent / "docs" / "scoring.md"
BENCHMARKS = HERE.parent / "docs" / "benchmarks.md"
OPENSEARCH = HERE.parent / "docs" / "opensearch.md"
SERVICE = HERE.parent / "docs" / "service.md"
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


def depth(data: dict[str, Any]) -> str:
    cases = {(row["sketches"], row["collection"], row["top"]): row for row in data["rows"]}
    columns = list(dict.fromkeys((row["collection"], row["k"], row["top"]) for row in data["rows"]))
    heads = [f"{NAMES[name]}, {k:,} candidates, `--exact-top {top}`" for name, k, top in columns]
    lines = [
        f"| sketches beside {data['codec']} | {' | '.join(heads)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for sketches in dict.fromkeys(row["sketches"] for row in data["rows"]):
        cells = [f"{cases[sketches, name, top]['skipped']:.0%}" for name, _, top in columns]
        lines.append(f"| {' | '.join([sketches, *cells])} |")
    return "\n".join(["Candidates that are not scored by their vectors:", "", *lines, "", source("depth", data)])


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


def exactness(data: dict[str, Any]) -> str:
    lines = [
        f"Found with {NAMES['scifact']}, queries with all documents, in float64 and by each path of this machine's "
        "CPU: the greatest difference of a score, and how many queries have the same hundred best in the same order. "
        "Where they have not, two documents have changed places that are no further apart than the last column says.",
        "",
        "| rows | path | scores | greatest difference | of the bound | same hundred | apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        cells = [row["codec"], row["path"], f"{row['queries'] * row['documents']:,}", f"{row['greatest_error']:.0e}"]
        cells += [f"{row['share_of_allowed']:.1%}", f"{row['same_hundred']} of {row['queries']}"]
        cells.append(f"{row['greatest_disorder']:.0e}" if row["greatest_disorder"] else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", source("exactness", data, "../")])


# Of the paper (https://arxiv.org/abs/2004.12832, table 1): re-ranking 1000 passages of MS MARCO on one V100.
PAPER = {
    "FLOPs a query, the paper": ("97 T", "7 G", "13,900"),
    "ms a query, the paper, on a V100": ("10,700", "61", "175"),
}
NOT_MEASURED = "not yet measured"
COUNTED = {
    "FLOPs a query, counted as the paper does": "flops_cross_encoder_vs_colbert_paper",
    "FLOPs a query, passages as long as they are": "flops_cross_encoder_vs_colbert_own_lengths",
    "ms a query, passages as long as they are, on a CPU": "time_cross_encoder_vs_colbert",
}


def bench(data: dict[str, Any]) -> str:
    found = {row["name"]: row for row in data["rows"]}
    lines = _comparisons((*table.SCORING, *table.PASSAGES, *table.SERVER), found)
    stages = found.get(table.SERVER[-1].name, {}).get("stages_ms", {})
    if stages:
        each = ", ".join(f"{LABELS.get(stage, stage)} {ms:.1f}" for stage, ms in stages.items())
        lines += ["", f"A query of the last row from text to ranking, medians in milliseconds: {each}."]
    lines += ["", "The paper's claim, for 1000 candidates:", ""]
    lines += ["| | BERT-base cross-encoder | ColBERT on BERT-base | times |", "|---|---|---|---|"]
    lines += [f"| {what} | {' | '.join(cells)} |" for what, cells in PAPER.items()]
    for what, name in COUNTED.items():
        lines.append(f"| {what} | {' | '.join(_paper_cells(found.get(name, {'missing': ''})))} |")
    return "\n".join([*lines, "", _recorded("bench", data)])


def bench_large_cache(data: dict[str, Any]) -> str:
    found = {row["name"]: row for row in data["rows"]}
    lines = _comparisons((*table.SCORING, *table.PASSAGES, *table.SERVER), found)
    return "\n".join([*lines, "", _recorded("bench_large_cache", data)])


def bench_gpu(data: dict[str, Any]) -> str:
    found = {row["name"]: row for row in data["rows"]}
    return "\n".join([*_comparisons(table.GPU, found), "", _recorded("bench_gpu", data)])


def _comparisons(listed: Sequence[table.Row], found: Mapping[str, dict[str, Any]]) -> list[str]:
    lines = ["| row | ours | ms | beside it | ms | ratio | goal |", "|---|---|---|---|---|---|---|"]
    for row in listed:
        cells = [f"`{row.name}`", row.ours, "", table.LABELS.get(row.peer, row.peer), "", NOT_MEASURED, row.goal]
        figures = found.get(row.name, {"missing": ""})
        if "missing" not in figures:
            cells[2] = _spread(figures, "ours")
            cells[4], cells[5] = (_spread(figures, "peer"), times(figures["ratio"])) if row.peer else ("", "")
            if "queries_per_second" in figures:
                cells[2] += f": {times(figures['queries_per_second'])} queries a second"
        elif figures["missing"]:
            cells[5] = f"not measured: {figures['missing'].removeprefix(f'{NOT_MEASURED}: ')}"
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(row: Mapping[str, Any], side: str) -> str:
    return f"{times(row[f'{side}_ms'])} ({times(row[f'{side}_p10_ms'])} to {times(row[f'{side}_p90_ms'])})"


def _paper_cells(row: Mapping[str, Any]) -> list[str]:
    if "missing" in row:
        return ["", "", NOT_MEASURED]
    kind, shown = ("flops", operations) if "ours_flops" in row else ("ms", times)
    return [shown(row[f"peer_{kind}"]), shown(row[f"ours_{kind}"]), times(row["ratio"])]


def _recorded(name: str, data: dict[str, Any]) -> str:
    if "versions" not in data:
        return f"Nothing is recorded yet; `python -m benchmarks.bench` writes benchmarks/results/{name}.json."
    machine, versions = data["machine"], data["versions"]
    also = [f"{peer} {versions[peer]}" for peer in (*table.LABELS, "opensearch") if peer in versions]
    gpu = [machine["gpu"]] if "gpu" in machine else []
    where = [*gpu, f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", *also]
    shape = (
        f"{data['documents']:,} documents of {data['tokens']} tokens and {data['dim']} dimensions; a query has "
        f"{data['query_tokens']} tokens. Kernel: {data['scoring']}. {', '.join(where)}."
    )
    return f"{shape}\n{source(name, data, '../', 'bench')}"


def by_id(data: dict[str, Any]) -> str:
    lines = [
        f"The best {data['k']} of BM25 for queries of {NAMES[data['collection']]}, re-ranked with the starter on "
        f"{data['machine']['cores']} CPU cores: by their ids, by their texts through the same service, and by their "
        f"texts with rerankers {data['rerankers']}, which loads the same checkpoint. Milliseconds a query, median "
        "(10th to 90th percentile):",
        "",
        f"| | ms | times as long | of the first {data['top']} the same |",
        "|---|---|---|---|",
    ]
    for row in data["rows"]:
        spread = f"{times(row['median_ms'])} ({times(row['p10_ms'])} to {times(row['p90_ms'])})"
        lines.append(f"| {row['name']} | {spread} | {times(row['ratio'])} | {row['same_of_top']:.1f} |")
    return "\n".join([*lines, "", source("by_id", data, "../")])


def load(data: dict[str, Any]) -> str:
    (proof,) = (row for row in data["rows"] if row["proof"].startswith("load on the service"))
    report, more = proof["report"], proof["report"]["overload"]
    lines = [
        f"Clients on loopback of a service with one thread, each asking for {report['asked']} ids at a time with no "
        f"pause, {proof['n']:,} requests in all, every answer compared with what the re-ranker gives alone:",
        "",
        "| clients | requests a second | p50 ms | p95 ms | p99 ms | refused with 429 |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["clients"]:
        ms = [times(row[f"{name}_ms"]) for name in ("p50", "p95", "p99")]
        cells = [str(row["clients"]), times(row["requests_per_second"]), *ms, f"{row['refused']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    notes = (
        f"The process grew by {report['grown_bytes'] / 2**20:.0f} MiB meanwhile. Where only 4 may wait, "
        f"{more['refused']:,} of {more['requests']:,} requests were refused with 429, and none got anything else; then "
        "all were answered again."
    )
    where = "[benchmarks/results/soak.json](../benchmarks/results/soak.json) by `bash scripts/soak --only load`"
    return "\n".join([*lines, "", notes, f"Recorded in {where} (commit {proof['commit']}, {proof['processor']})."])


def in_search(data: dict[str, Any]) -> str:
    cells = {(row["k"], row["name"]): row for row in data["rows"]}
    depths = sorted({row["k"] for row in data["rows"]})
    lines = [
        f"A search of {data['documents']:,} passages for the best {data['size']}, which come back as ids, OpenSearch "
        f"{data['opensearch']} on {data['machine']['cores']} CPU cores. Milliseconds of a client's clock, median "
        "(10th to 90th percentile), and what is added to the search alone:",
        "",
        f"| | {' | '.join(f'k = {k:,} | added' for k in depths)} |",
        f"|---|{'---|---|' * len(depths)}",
    ]
    for name, text in SEARCHES.items():
        row = [text]
        for k in depths:
            found = cells[k, name]
            row.append(f"{times(found['median_ms'])} ({times(found['p10_ms'])} to {times(found['p90_ms'])})")
            row.append("" if name == "search alone" else times(found["added_ms"]))
        lines.append(f"| {' | '.join(row)} |")
    note = (
        f"Documents have {data['tokens']} vectors, the same in the store and in `_source`. In the pipeline's time the "
        "query is encoded, too; `lateInteractionScore` was given its vectors, and has its window in as many shards as "
        "there are cores."
    )
    return "\n".join([*lines, "", note, source("in_search", data, "../")])


SEARCHES = {
    "search alone": "the search alone",
    "search for the candidates": "the search, for the ids of all k",
    "pipeline": "re-ranked through the pipeline",
    "lateInteractionScore": "rescored by `lateInteractionScore`",
}


def times(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def operations(value: float) -> str:
    return f"{value / 1e12:.1f} T" if value >= 1e12 else f"{value / 1e9:.1f} G"


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


def source(name: str, data: dict[str, Any], up: str = "", program: str = "") -> str:
    versions = data["versions"]
    where = f"{data['machine']['processor']}, Python {versions['python']}, torch {versions['torch']}"
    path = f"benchmarks/results/{name}.json"
    command = f"python -m benchmarks.{program or name}"
    return f"Recorded in [{path}]({up}{path}) by `{command}` (commit {data['commit']}, {where})."


PAGES = {
    README: (depth, quality, codecs, speed, store, large, query_encoding),
    CHECKPOINTS: (parity,),
    SCORING: (exactness,),
    BENCHMARKS: (bench, bench_large_cache, bench_gpu),
    OPENSEARCH: (in_search,),
    SERVICE: (by_id, load),
}
FILES = {"load": "soak"}
# Tables that are shown before they are recorded.
AHEAD = (bench, bench_gpu)


def rendered(page: Path) -> str:
    """The page's text with its tables as they are recorded."""
    text = page.read_text(encoding="utf-8")
    for render in PAGES[page]:
        name = render.__name__
        path = HERE / "results" / f"{FILES.get(name, name)}.json"
        ahead = render in AHEAD and not path.exists()
        data = {"rows": []} if ahead else json.loads(path.read_text(encoding="utf-8"))
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
