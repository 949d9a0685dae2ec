"""`--help`: at once, complete, with examples."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from colbert_rerank.cli import COMMANDS, LazyGroup, cli
from colbert_rerank.cli.store import STORE_COMMANDS

README = Path(__file__).parent.parent.parent / "README.md"
SECONDS = 0.3
HEAVY = {"torch", "transformers", "tokenizers", "numpy", "rich", "ir_measures"}
HEAVY |= {"opensearchpy", "elasticsearch", "elastic_transport", "h5py", "tantivy"}

# As the console script does it, and then which packages it took.
HELP = """
import json, sys
from colbert_rerank.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

GROUPS = ("model", "store", "index", "opensearch", "elasticsearch")  # the commands that have commands
LEAVES = [
    *(name for name in COMMANDS if name not in GROUPS),
    *("model show", "model check", "index build", "index info", "elasticsearch setup"),
    *("opensearch setup", "opensearch doctor", "opensearch teardown"),
    *(f"store {name}" for name in STORE_COMMANDS),
]
PAGES = ["", *GROUPS, *LEAVES]
every_page = pytest.mark.parametrize("command", PAGES, ids=lambda name: name or "colbert-rerank")
every_command = pytest.mark.parametrize("command", LEAVES)


def in_a_process(command: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Its outcome, and the seconds of processor time it took: what else the machine does is not the command's fault."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [sys.executable, "-c", HELP, *command.split(), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def page(command: str) -> str:
    found = loaded(command)
    return found.get_help(click.Context(found, info_name=f"colbert-rerank {command}", terminal_width=80))


def loaded(command: str) -> click.Command:
    found: click.Command = cli
    for name in command.split():
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), name)
        assert inner is not None
        found = inner
    return found


@every_page
def test_it_is_shown_at_once(command: str) -> None:
    assert min(in_a_process(command)[1] for _ in range(5)) < SECONDS


@every_page
def test_nothing_heavy_is_imported_for_it(command: str) -> None:
    done, _ = in_a_process(command)
    assert "Usage: " in done.stdout
    assert set(json.loads(done.stderr)) & HEAVY == set()


@every_command
def test_every_command_has_an_example_that_names_only_its_own_options(command: str) -> None:
    examples = re.findall(rf"^ .*colbert-rerank {command}\b.*$", page(command), flags=re.M)
    assert examples
    known = {name for param in loaded(command).params for name in param.opts}
    assert {name for line in examples for name in re.findall(r" (--[a-z][\w-]*)", line)} <= known


@every_command
def test_every_option_says_what_it_does(command: str) -> None:
    for param in loaded(command).params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert param.help.endswith("."), param.help


@every_command
def test_options_stand_in_one_column_within_80_characters(command: str) -> None:
    options = page(command).split("\nOptions:\n")[1]
    assert max(map(len, options.splitlines())) <= 80
    # the text beside a name begins where the text below it goes on
    starts = {len(m.group()) for m in re.finditer(r"^  -.{1,30}?  +(?=\S)", options, flags=re.M)}
    starts |= {len(m.group()) for m in re.finditer(r"^ {10,}", options, flags=re.M)}
    assert len(starts) == 1, starts


@every_command
def test_the_list_of_commands_shows_a_whole_sentence(command: str) -> None:
    group, _, name = command.rpartition(" ")
    listed = page(group)
    assert re.search(rf"^  {name} +\S.*[^.]\.$", listed, flags=re.M)


def test_all_commands_are_looked_at() -> None:
    found = {*COMMANDS} - {*GROUPS}
    for name in GROUPS:
        group = loaded(name)
        assert isinstance(group, click.Group)
        names = group.commands_by_name if isinstance(group, LazyGroup) else group.commands
        found |= {f"{name} {command}" for command in names}
    assert sorted(LEAVES) == sorted(found)


@every_command
def test_the_readme_names_every_command(command: str) -> None:
    assert f"colbert-rerank {command}" in README.read_text(encoding="utf-8")


def test_the_readme_names_no_option_that_there_is_not() -> None:
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^colbert-rerank .*$", text, flags=re.M):
        _, command, *rest = line.partition("#")[0].split()
        if command in GROUPS:
            command = f"{command} {rest.pop(0)}"
        known = {name for param in loaded(command).params for name in param.opts}
        assert {word for word in rest if word.startswith("--")} <= known, line
