"""From what a user types after ``--model`` to a local folder of checkpoint files."""

from __future__ import annotations

import errno
import os
from importlib.resources import files
from pathlib import Path

from colbert_rerank.errors import CheckpointError

STARTER = "starter"
# Weights, configuration and tokenizer; never code.
HUB_FILES = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.dnn", "colbert_linear.pt", "artifact.metadata"]


def locate(name: str) -> Path:
    """The folder that holds checkpoint ``name``: ``starter``, a folder, or a name on the hub (downloaded once).

    Raises CheckpointError where there is neither such a folder nor such a name, or where the hub is out of reach.
    """
    if name == STARTER:
        return Path(str(files("colbert_rerank") / "data" / "starter"))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"model {name!r} is a file; give the folder that holds config.json and the weights")
    if not _is_hub_name(name):
        raise CheckpointError(f"model {name!r}: no such folder, and not a hub name of the form OWNER/NAME")
    return _from_hub(name)


def public_name(name: str) -> str:
    """The name as strangers may see it: of a folder its last part."""
    if _is_hub_name(name) and not Path(name).is_dir():
        return name
    return Path(os.path.normpath(Path(name).expanduser().absolute())).name  # of a link its own, not its target's


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except GatedRepoError:
        raise CheckpointError(
            f"model {name!r}: its authors give it only to those who ask. Ask on its page, then log in: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"model {name!r}: no such folder here, and no such model on the hub, or a private one (hf auth login)"
        ) from None
    except HFValidationError as error:
        raise CheckpointError(f"model {name!r}: {error}") from None
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            message = f"model {name!r} cannot be kept in the hub's cache: {error.strerror} ({error.filename})"
            raise CheckpointError(message) from None
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise CheckpointError(
            f"model {name!r}: no such folder here, it is not in the local cache, and the hub cannot be reached"
            f"{offline}: {type(error).__name__}. Copy the model's folder to this machine and give its path"
        ) from None
