"""What this machine has for re-ranking, and what would be of use."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from colbert_rerank.maxsim import gpu, native
from colbert_rerank.store.lookup import is_compiled as lookup_is_compiled

# What an optional library is for, by its name among those that are installed.
OPTIONAL = {
    "boto3": "Amazon OpenSearch (--aws-region)",
    "elasticsearch": "candidates from Elasticsearch (--elasticsearch)",
    "faiss-cpu": "codecs that learn centroids (--codec residual2), and candidates by vectors (index build)",
    "ir_datasets": "collections by name (ir_datasets:ID)",
    "onnxruntime": "queries encoded faster on a CPU (--query-backend onnx)",
    "pypdfium2": "pages of PDF files",
    "scipy": "token pooling (--pool-factor)",
    "uvicorn": "the HTTP service (serve)",
}


# What figures depend on.
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "h5py", "tantivy", "opensearch-py", "ir-measures")


def environment() -> dict[str, Any]:
    """What every measurement records beside its figures: the machine and the versions."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "machine": {
            "processor": _processor(),
            "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
            **gpu,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def facts() -> dict[str, str]:
    """By what each is called, as a person reads it."""
    import torch

    found = {
        "system": f"{platform.system()} {platform.machine()}, {cores()} cores",
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "device": _device(),
        "scoring on the CPU": _scoring(),
        "looking up ids": "compiled" if lookup_is_compiled() else "by NumPy, more slowly",
        "scoring on the GPU": _scoring_on_gpu(),
    }
    for name, purpose in OPTIONAL.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = f"not installed; it is for {purpose}"
    return found


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return f"cuda: {torch.cuda.get_device_name()}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB of its memory free"
    return "mps" if torch.backends.mps.is_available() else "cpu; torch finds no GPU"


def _scoring() -> str:
    if isas := native.isas():
        return f"compiled kernel, {isas[0]} (it could use {', '.join(isas)})"
    return (
        "by torch, more slowly: the kernel was not compiled. With a C compiler, install colbert-rerank from its source"
    )


def _scoring_on_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        kernel = "" if find_spec("triton") else ", nor is Triton, which its kernel is written in, installed"
        return f"not here: torch finds no GPU that computes with CUDA{kernel}"
    reason = gpu.fault("cuda")
    return f"by torch, more slowly: Triton's kernel cannot be used: {reason}" if reason else "kernel compiled by Triton"
