"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from colbert_rerank.cli.help import section
from colbert_rerank.errors import UsageError

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

    from colbert_rerank.encoder import Encoder
    from colbert_rerank.store import Store

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
_LOGIN = ("os_user", "os_password_file", "os_api_key_file", "os_token_file", "ca_file", "insecure", "aws_region")
SERVER = (*_LOGIN, "timeout")  # what means nothing without --opensearch


@dataclass(frozen=True)
class ModelOptions:
    model: str
    device: str
    compute_dtype: str
    query_length: int | None
    doc_length: int | None
    doc_skip: Any
    base: str
    projection: Any
    text_documents: bool

    def load(self) -> Encoder:
        from colbert_rerank.cli.progress import working

        with working(f"loading the model {self.model}"):
            from colbert_rerank.checkpoints import Choices
            from colbert_rerank.encoder import Encoder

            choices = Choices(
                self.query_length, self.doc_length, self.doc_skip, self.base, self.projection, self.text_documents
            )
            return Encoder.load(self.model, device=self.device, dtype=self.compute_dtype, choices=choices)


@dataclass(frozen=True)
class StoreModelOptions:
    """The model that a store was made with: where it is, if not where it was, and on what it runs."""

    model: str | None
    base: str | None
    device: str
    compute_dtype: str
    query_backend: str = "torch"

    def load(self, store: Store) -> Encoder:
        from colbert_rerank.cli.progress import working

        with working("loading the model"):
            return self.encoder(store)

    def encoder(self, store: Store) -> Encoder:
        """The same while other progress is shown."""
        from colbert_rerank.rerank import encoder_of

        return encoder_of(
            store,
            self.model,
            base=self.base,
            device=self.device,
            dtype=self.compute_dtype,
            query_backend=self.query_backend,
        )


@dataclass(frozen=True)
class OpenSearchOptions:
    opensearch: str | None
    os_user: str
    os_password_file: str
    os_api_key_file: str
    os_token_file: str
    ca_file: str
    insecure: bool
    aws_region: str
    timeout: float

    @property
    def shown_url(self) -> str:
        """The address without a user and password, to be printed."""
        from colbert_rerank.connection import split_url

        return split_url(self.opensearch or "")[0]

    def connect(self) -> OpenSearch:
        """A client for a server that was asked whether it will do. Raises OpenSearchError, UsageError."""
        from colbert_rerank.connection import Connection
        from colbert_rerank.opensearch import check_server, connect

        if not self.opensearch:
            raise UsageError("give the server's address: --opensearch URL")
        client = connect(
            Connection.from_environment(
                self.opensearch,
                user=self.os_user,
                password_file=self.os_password_file,
                api_key_file=self.os_api_key_file,
                token_file=self.os_token_file,
                ca_file=self.ca_file,
                verify=not self.insecure,
                aws_region=self.aws_region,
                timeout=self.timeout,
            )
        )
        check_server(client)
        return client


def model_options(command: F) -> F:
    """What to encode with, passed on as ``model: ModelOptions``."""
    name = section("Model")(
        "--model",
        metavar="NAME",
        default="starter",
        show_default=True,
        help="starter (bundled), a folder, or OWNER/NAME on the hub.",
    )
    return _model_options(command, name)


def model_argument(command: F) -> F:
    """As `model_options`, where the model is what a command is about."""
    return _model_options(command, click.argument("model", metavar="[NAME]", default="starter"))


def _model_options(command: F, name: Callable[[Any], Any]) -> F:
    option = section("Model")
    return grouped(
        command,
        "model",
        ModelOptions,
        name,
        *_device_options(),
        option("--query-length", metavar="N", type=int, help="Tokens of a query; by default what the model states."),
        option("--doc-length", metavar="N", type=int, help="Tokens of a document; by default what the model states."),
        option(
            "--doc-skip",
            type=click.Choice(["after-encode", "before-encode"]),
            default="after-encode",
            show_default=True,
            help="Leave punctuation out after encoding, as the authors do, or before, as Vespa does.",
        ),
        option("--base", metavar="NAME", default="", help="Model of the tokenizer, for weights without one (.dnn)."),
        option(
            "--projection",
            type=click.Choice(["trained", "identity"]),
            default="trained",
            show_default=True,
            help="identity: rank by hidden states, of a model without a token projection.",
        ),
        option("--text-documents", is_flag=True, help="Texts as documents, of a model trained for page images."),
    )


def store_model_options(command: F) -> F:
    """For a store that is there and is searched, passed on as ``model: StoreModelOptions``."""
    backend = section("Model")(
        "--query-backend",
        type=click.Choice(["torch", "onnx"]),
        default="torch",
        show_default=True,
        help="onnx: on a CPU, queries twice as fast after some seconds; worth it from hundreds on.",
    )
    return grouped(command, "model", StoreModelOptions, *_place_options(), *_device_options(), backend)


def store_encoder_options(command: F) -> F:
    """The same for a store that is added to."""
    return grouped(command, "model", StoreModelOptions, *_place_options(), *_device_options())


def _place_options() -> list[Callable[[Any], Any]]:
    option = section("Model")
    return [
        option("--model", metavar="NAME", help="Where the model of the store is, if not where it was."),
        option("--base", metavar="NAME", help="Where the model of its tokenizer is, if not where it was."),
    ]


def _device_options() -> list[Callable[[Any], Any]]:
    option = section("Model")
    return [
        option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        option(
            "--compute-dtype",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
            help="Precision of the network; auto is fp32 on a CPU, fp16 on a GPU.",
        ),
    ]


def opensearch_options(command: F) -> F:
    """How to reach OpenSearch, passed on as ``server: OpenSearchOptions``. Secrets never stand on the command line."""
    option = section("OpenSearch")
    return grouped(
        command,
        "server",
        OpenSearchOptions,
        option("--opensearch", metavar="URL", help="The server, such as https://localhost:9200."),
        option("--os-user", metavar="NAME", default="", help="Else $COLBERT_RERANK_OPENSEARCH_USER."),
        option("--os-password-file", metavar="FILE", default="", help="Else $COLBERT_RERANK_OPENSEARCH_PASSWORD."),
        option("--os-api-key-file", metavar="FILE", default="", help="Else $COLBERT_RERANK_OPENSEARCH_API_KEY."),
        option(
            "--os-token-file", metavar="FILE", default="", help="Bearer token; else $COLBERT_RERANK_OPENSEARCH_TOKEN."
        ),
        option("--ca-file", metavar="FILE", default="", help="CA certificate of the server, PEM."),
        option("--insecure", is_flag=True, help="Do not check the server's certificate."),
        option(
            "--aws-region",
            metavar="NAME",
            default="",
            help="Sign requests for Amazon OpenSearch in this region (SigV4).",
        ),
        option(
            "--timeout", metavar="S", type=float, default=60.0, show_default=True, help="Seconds a request may take."
        ),
    )


def ranking_options(command: F) -> F:
    """``--missing``, ``--interpolate``, ``--exact-top`` and ``--rescore``."""
    option = section("Ranking")
    for add in (
        option(
            "--exact-top",
            type=click.IntRange(1),
            metavar="N",
            help="Score all by the store's sketches, and by its vectors those that may be among the first N; the order "
            "and the scores below them are those of the sketches.",
        ),
        option(
            "--rescore",
            type=click.IntRange(1),
            metavar="N",
            help="Score all by the store's sketches, and the best N again by its vectors.",
        ),
        option(
            "--interpolate",
            type=float,
            metavar="A",
            help="Rank by A z(first stage) + (1 - A) z(MaxSim); off by default.",
        ),
        option(
            "--missing",
            type=click.Choice(["first_stage", "encode", "drop", "error"]),
            default="first_stage",
            show_default=True,
            help="Candidates without vectors: keep after the others, encode their text now, drop, or stop.",
        ),
    ):
        command = add(command)
    return command


def given(*names: str) -> list[str]:
    """Those of these options that stand on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def refuse(names: Sequence[str], why: str) -> None:
    """Raises UsageError where one of these options was given: none is ignored without a word."""
    if found := given(*names):
        raise UsageError(f"{', '.join(map(_flag, found))}: {why}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def next_command(command: str, store: Path, server: OpenSearchOptions) -> str:
    """A command line for the same store and server."""
    at = f" --opensearch {server.shown_url}" if server.opensearch else ""
    words: list[str] = []
    for name in given(*_LOGIN):  # none of them is a secret
        value = click.get_current_context().params[name]
        words += [_flag(name), *([] if value is True else [shlex.quote(str(value))])]
    return " ".join([f"{_program()} {command} --store {shlex.quote(str(store))}{at}", *words])


def _program() -> str:
    """What calls this command again: its name, or its path where the shell does not look for it."""
    name, called = "colbert-rerank", Path(sys.argv[0])
    found = shutil.which(name)
    if called.name != name or not called.exists() or (found and called.samefile(found)):
        return name
    here, path = Path.cwd(), called.absolute()
    if not path.is_relative_to(here):
        return shlex.quote(str(path))
    return "./" * (path.parent == here) + shlex.quote(str(path.relative_to(here)))


def grouped(command: F, name: str, kind: Any, *options: Callable[[Any], Any]) -> F:
    """Add ``options`` to a command, and hand them over as one value of ``kind``."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        own = {field: kwargs.pop(field) for field in kind.__dataclass_fields__ if field in kwargs}
        return command(*args, **{name: kind(**own)}, **kwargs)

    result: Any = wrapper
    for option in reversed(options):
        result = option(result)
    typed: F = result
    return typed
