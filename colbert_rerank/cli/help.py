"""``--help`` with its options under headings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

WIDTH = 30  # of the column of names; a longer name stands on a line of its own


class Option(click.Option):
    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def section(title: str) -> Callable[..., Callable[[Any], Any]]:
    """As ``click.option``, for options that stand under ``title``."""
    return partial(click.option, cls=Option, section=title)


class Command(click.Command):
    """Options that name no section come first, under "Options"; ``--help`` itself stands with the last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        last = "Options"
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None or not isinstance(param, click.Option):
                continue
            if isinstance(param, Option):
                last = param.section
            title = last if isinstance(param, Option) or "--help" in param.opts else "Options"
            sections.setdefault(title, []).append(record)
        names = [name for rows in sections.values() for name, _ in rows]
        width = max(len(name) for name in names if len(name) <= WIDTH)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)
