"""Compiles what is written in C into the wheel where there is a C compiler; where there is none, it does without.

What it makes is loaded by ctypes: it knows nothing of Python, so that one library serves all its versions.
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("colbert_rerank", "native")
SOURCES = ("maxsim.c", "lookup.c", "interaction.c")
# Contraction, of a product and a sum into one rounding, is what the instruction sets that are chosen at run time have.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread"]


class KernelHook(BuildHookInterface[Any]):
    """Named by pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / FOLDER
        library = folder / "_native.so"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        try:
            subprocess.run([*compiler, *FLAGS, "-o", library, *(folder / name for name in SOURCES)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            library.unlink(missing_ok=True)
            self.app.display_warning(f"colbert-rerank will be slower: its C was not compiled ({error})")
            return
        build_data["artifacts"].append(str(FOLDER / library.name))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
