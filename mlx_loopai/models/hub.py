"""Downloads models from the Hugging Face hub, and uploads to it."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# Weights and what describes them; code, other formats and pictures are not downloaded.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_TORCH = ["pytorch_model*.bin"]


def is_hub_id(source: str | Path) -> bool:
    """Whether `source` has the form `owner/model`."""
    return isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w-][\w.-]*", source) is not None


def download(repo_id: str, revision: str | None = None, torch_too: bool = False) -> Path:
    """The local snapshot folder of `repo_id`, fetched when it is not cached.

    `revision` is a branch, tag or commit. With `torch_too` a repository without safetensors gives its torch files.

    Raises:
        InputError: there is no network and no cached copy, or the hub does not give the model or the revision.
        OSError: the disk is full.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=_WANTED))
        if torch_too and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[*_WANTED, *_TORCH]))
        return folder
    except errors.GatedRepoError:
        raise InputError(
            tr(
                "{repo_id}: the hub wants its licence accepted first; do so on the model's page, then set HF_TOKEN",
                repo_id=repo_id,
            )
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            tr(
                "{repo_id}: is neither a local path nor a model on the hub (or it is private: set HF_TOKEN)",
                repo_id=repo_id,
            )
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            tr(
                "{repo_id}: the hub has no revision {revision!r} of it; give a branch, tag or commit with `revision`",
                repo_id=repo_id,
                revision=revision,
            )
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _unreachable(repo_id, error) from None
    # Any error: those of the HTTP library below are not a part of the client's interface, and that library has changed.
    except Exception as error:
        raise _unreachable(repo_id, error) from None


def _unreachable(repo_id: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        tr(
            "{repo_id}: is not a local path and the hub cannot be reached ({reason}); give a folder with the "
            "model, or set HF_HUB_OFFLINE=1 on a machine that has a cached copy",
            repo_id=repo_id,
            reason=reason,
        )
    )


def upload(folder: Path, repo_id: str, api: Any = None) -> str:
    """Put the files of `folder` into the model repository `repo_id`, made when it is not there. Returns: its address.

    `api` stands for huggingface_hub's HfApi in tests.

    Raises:
        InputError: `repo_id` is not a hub id, there is no token, or the hub refuses it.
    """
    from huggingface_hub import HfApi, errors

    if not is_hub_id(repo_id):
        raise InputError(tr("`push` {repo_id}: is not of the form OWNER/NAME", repo_id=repo_id))
    hub = HfApi() if api is None else api
    try:
        hub.create_repo(repo_id, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Upload with mlx-loopai")
    except errors.LocalTokenNotFoundError:
        raise InputError(
            tr(
                "`push` {repo_id}: no token; run `hf auth login` or set HF_TOKEN; {folder} is written",
                repo_id=repo_id,
                folder=folder,
            )
        ) from None
    # Any error: those of the HTTP library below are not a part of the client's interface.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            tr(
                "`push` {repo_id}: the hub refused it ({reason}); check the name and that the token may write; "
                "{folder} is written",
                repo_id=repo_id,
                reason=reason,
                folder=folder,
            )
        ) from None
    return f"https://huggingface.co/{repo_id}"
