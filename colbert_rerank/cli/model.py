"""`colbert-rerank model`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import ModelOptions, model_argument
from colbert_rerank.cli.output import output_options, say, table
from colbert_rerank.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from colbert_rerank.checkpoints import Checkpoint
    from colbert_rerank.checkpoints.spec import TextRules


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def model() -> None:
    """Look at a checkpoint: what it is, and whether it scores as others say."""


@model.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@model_argument
@output_options
def show(as_json: bool, model: ModelOptions) -> None:
    """Print how a checkpoint is read, and what is assumed.

    Its rules, files and hashes, and everything that no file of it states.
    NAME is starter (bundled), a folder, or OWNER/NAME on the hub.

    \b
    Examples:
      colbert-rerank model show
      colbert-rerank model show colbert-ir/colbertv2.0 --json
    """
    facts = _facts(model.load().checkpoint)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    assumed = facts.pop("assumed")
    files = facts.pop("files")
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {value}")
    table("\nFiles", ["name", "bytes"], [[name, f"{size:,}"] for name, size in files.items()])
    click.echo("\nAssumed, because no file states it" if assumed else "\nNothing had to be assumed")
    for name, value in assumed.items():
        click.echo(f"  {name}: {value}")


@model.command(cls=Command)
@click.option("--as", "known_as", metavar="NAME", help="The name it is published under, of a folder called otherwise.")
@model_argument
@output_options
def check(known_as: str | None, model: ModelOptions) -> None:
    """Score a probe, and compare with published scores.

    They are those of another implementation; where none are known, that is said.
    NAME is starter (bundled), a folder, or OWNER/NAME on the hub.

    \b
    Examples:
      colbert-rerank model check
      colbert-rerank model check models/my-colbert --as colbert-ir/colbertv2.0
    """
    from colbert_rerank.reference_scores import compare, known_models, reference_scores

    known = reference_scores(known_as or model.model)
    if known_as and not known:
        raise UsageError(f"no scores are known for {known_as!r}; they are for {', '.join(known_models())}")
    encoder = model.load()
    if not known:
        rows = encoder.encode_queries(["What is late interaction?"])[0]  # raises where a vector is not finite
        say(f"{model.model}: {len(rows)} vectors of {encoder.dim} dimensions for a query, all finite")
        say("no other implementation's scores are known for it, so there is nothing to compare them with")
        return
    bad = 0
    for comparison in (compare(encoder, one) for one in known):
        reference = comparison.known
        bad += not comparison.agrees
        table(
            f"{reference.query}",
            ["", "known", "here"],
            [
                [text if len(text) <= 60 else f"{text[:59]}…", f"{score:.5g}", f"{ours:.5f}"]
                for text, score, ours in zip(reference.documents, reference.scores, comparison.ours, strict=True)
            ],
        )
        verdict = "agrees with" if comparison.agrees else "DIFFERS from"
        click.echo(f"  {verdict} {reference.source}: {comparison.error:.1e}, allowed {reference.tolerance:.0e}\n")
    if bad:
        raise CheckpointError(
            f"{model.model}: its scores are not those known for {known_as or model.model}. Are these the published "
            "weights, and the lengths they were scored with?"
        )


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    spec, folder = checkpoint.spec, checkpoint.folder
    expansion = spec.expansion
    added = "none"
    if expansion:
        count = "to the query's length" if expansion.count is None else f"{expansion.count} after it"
        attended = "attended" if expansion.attended else "not attended"
        added = f"{_token(checkpoint, expansion.token_id)}, {count}, {attended}"
    rules = [name for name in ("strip", "lowercase", "skip_before") if getattr(spec, name)]
    skipped = " ".join(_token(checkpoint, i) for i in spec.skip_ids) or "none"
    return {
        "model": checkpoint.name,
        "layout": checkpoint.layout,
        "folder": str(folder),
        "dimensions": spec.dim,
        "query": _text(checkpoint, spec.query),
        "expansion": added,
        "document": _text(checkpoint, spec.document) if spec.text_documents else "a page image",
        "document tokens left out": skipped,
        "first rows left out": spec.first_row,
        "other rules": ", ".join(rules) or "none",
        **({"page images": str(checkpoint.reader.settings)} if checkpoint.reader else {}),
        "normalized": spec.normalize,
        "similarity": spec.similarity,
        "aggregation": spec.aggregation,
        "trained": checkpoint.trained,
        "parameters": sum(p.numel() for m in (checkpoint.backbone, checkpoint.head) for p in m.parameters()),
        "hash of tensors": checkpoint.tensor_hash,
        "hash of tokenizer": checkpoint.tokenizer_hash,
        "files": {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
        },
        "assumed": dict(checkpoint.assumed),
    }


def _text(checkpoint: Checkpoint, rules: TextRules) -> str:
    before = [_token(checkpoint, i) for i in rules.prefix_ids] + ([repr(rules.prompt)] if rules.prompt else [])
    after = [_token(checkpoint, i) for i in rules.suffix_ids]
    return f"{' '.join([*before, '..', *after])}, at most {rules.length} tokens"


def _token(checkpoint: Checkpoint, token_id: int) -> str:
    return str(checkpoint.tokenizer.convert_ids_to_tokens(token_id))
