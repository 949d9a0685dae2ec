"""`model show` and `model check`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import colbert_rerank
from colbert_rerank.checkpoints import load_checkpoint
from tests.cli.terminal import invoke
from tests.tiny import DIM, tiny_checkpoint

STARTER = Path(colbert_rerank.__file__).parent / "data" / "starter"
CHECKPOINTS = Path(__file__).parent.parent / "parity" / "checkpoints"


def test_it_shows_how_a_checkpoint_is_read(tiny: Path) -> None:
    facts = json.loads(invoke("model", "show", tiny, "--json", "--doc-length", 50).check().out)
    assert facts["layout"] == "HF_ColBERT"
    assert facts["dimensions"] == DIM
    assert facts["query"] == "[CLS] [unused0] .. [SEP], at most 32 tokens"
    assert facts["document"] == "[CLS] [unused1] .. [SEP], at most 50 tokens"
    assert facts["expansion"] == "[MASK], to the query's length, not attended"
    assert facts["files"]["model.safetensors"] == (tiny / "model.safetensors").stat().st_size
    assert facts["hash of tensors"] == load_checkpoint(str(tiny)).tensor_hash
    assert facts["assumed"] == {}
    text = invoke("model", "show", tiny).check().out
    assert all(f"{name} " in text and str(value) in text for name, value in facts.items() if name == "similarity")
    assert text.endswith("Nothing had to be assumed\n")


def test_it_shows_what_it_assumes(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STARTER, tmp_path / "model"))
    (folder / "artifact.metadata").unlink()
    done = invoke("model", "show", folder).check()
    assert "Warning: " in done.err
    assert "artifact.metadata is missing, so colbert-ai's defaults are assumed" in done.err
    assert "  query_maxlen: 32, colbert-ai's default\n" in done.out


def test_it_names_the_rules_of_other_layouts() -> None:
    shown = invoke("model", "show", CHECKPOINTS / "hofstaetter").check().out
    assert "[MASK], 8 after it, attended" in shown
    shown = invoke("model", "show", CHECKPOINTS / "pylate_modernbert").check().out
    assert "other rules               strip, lowercase" in shown


def test_the_starter_scores_as_colbert_ai_says() -> None:
    done = invoke("model", "check").check()
    assert "agrees with colbert-ai" in done.out
    assert "DIFFERS" not in done.out


def test_a_model_that_is_not_what_it_is_called_is_found_out(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    done = invoke("model", "check", folder, "--as", "starter")
    assert done.status == 1
    assert "DIFFERS from colbert-ai" in done.out
    assert "its scores are not those known for starter" in done.err


@pytest.mark.parametrize("named", ["colbert-ir/colbertv2.0", "BAAI/bge-m3"])
def test_a_folder_is_known_by_its_last_two_names(tmp_path: Path, named: str) -> None:
    """As a mirror of the hub has them."""
    folder = tiny_checkpoint(tmp_path / named)
    done = invoke("model", "check", folder)
    assert done.status == 1
    assert "DIFFERS from" in done.out


def test_a_name_of_which_nothing_is_known_is_a_mistake(tiny: Path) -> None:
    done = invoke("model", "check", tiny, "--as", "colbert-ir/colbertv2")
    assert done.status == 2
    assert "no scores are known for 'colbert-ir/colbertv2'; they are for " in done.err
    assert "colbert-ir/colbertv2.0" in done.err


def test_a_model_of_pages_can_be_checked() -> None:
    assert "dimensions for a query, all finite" in invoke("model", "check", CHECKPOINTS / "colqwen2").check().err


def test_nothing_known_is_said(tiny: Path) -> None:
    done = invoke("model", "check", tiny).check()
    assert done.out == ""
    assert f"vectors of {DIM} dimensions for a query, all finite" in done.err
    assert "nothing to compare them with" in done.err
