"""Data sets on the Hugging Face hub: `hf:owner/name`, fetched once and read from the cache afterwards."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from mlx_loopai.data.formats import ROW_SUFFIXES, split_of
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

HUB_PREFIX = "hf:"
_SOURCE = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[\w-][\w.-]*)(?:/([\w.-]+))?(?::([\w.-]+))?")
# Where the hub keeps its own Parquet copy of data sets in other forms.
_PARQUET_BRANCH = "refs/convert/parquet"


def fetch_rows(source: str) -> tuple[Path, str]:
    """(a folder with the files of `hf:owner/name[/part][:split]`, the split's name).

    Only that split's files are fetched, and only when they are not cached. Without a network the cache is used.

    Raises:
        InputError: `source` has another form, the hub does not give the data set, or it holds no rows.
        OSError: the disk is full.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise InputError(
            tr(
                "{source}: is not of the form hf:OWNER/NAME, hf:OWNER/NAME:SPLIT or hf:OWNER/NAME/PART:SPLIT",
                source=source,
            )
        )
    repo_id, part, split = match[1], match[2] or "", match[3] or "train"
    wanted = split_of(Path(split)) or split
    for revision in (None, _PARQUET_BRANCH):
        listed = _listed(repo_id, revision)
        if listed is None:
            return _cached(repo_id, part, source), wanted
        files = [name for name in listed if Path(name).suffix.lower() in ROW_SUFFIXES and _within(name, part)]
        chosen = [name for name in files if split_of(Path(name)) == wanted]
        if not chosen and wanted == "train":
            chosen = [name for name in files if split_of(Path(name)) is None]
        if chosen:
            return _fetched(repo_id, revision, chosen, source) / part, wanted
        if files:
            found = sorted({split_of(Path(name)) or "train" for name in files})
            raise InputError(
                tr(
                    "{source}: has no split {split!r}; it has {splits}",
                    source=source,
                    split=split,
                    splits=", ".join(found),
                )
            )
    raise InputError(
        tr(
            "{source}: holds no rows ({endings}); download it and convert it yourself",
            source=source,
            endings=", ".join(ROW_SUFFIXES),
        )
    )


def _within(name: str, part: str) -> bool:
    return not part or part in Path(name).parts[:-1]


def _listed(repo_id: str, revision: str | None) -> list[str] | None:
    """The repository's files; None without a network. Raises: InputError when the hub does not give it."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().list_repo_files(repo_id, repo_type="dataset", revision=revision)
    except errors.GatedRepoError:
        raise InputError(
            tr("hf:{repo_id}: its terms must be accepted on the hub's page first, then set HF_TOKEN", repo_id=repo_id)
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            tr("hf:{repo_id}: there is no such data set on the hub (or it is private: set HF_TOKEN)", repo_id=repo_id)
        ) from None
    except errors.RevisionNotFoundError:
        return []
    # Those of the HTTP library below are not a part of the client's interface.
    except Exception:
        return None


def _fetched(repo_id: str, revision: str | None, names: list[str], source: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=names))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _unreachable(source, error) from None
    except Exception as error:
        raise _unreachable(source, error) from None


def _cached(repo_id: str, part: str, source: str) -> Path:
    from huggingface_hub import snapshot_download

    for revision in (None, _PARQUET_BRANCH):
        try:
            folder = snapshot_download(repo_id, repo_type="dataset", revision=revision, local_files_only=True)
        except Exception:  # not cached, or not this revision
            continue
        if any(file.suffix.lower() in ROW_SUFFIXES for file in Path(folder).rglob("*")):
            return Path(folder) / part
    raise InputError(
        tr("{source}: the hub cannot be reached and nothing of it is cached; give files, or try again", source=source)
    )


def _unreachable(source: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        tr("{source}: cannot be fetched ({reason}); try again, or give files", source=source, reason=reason[:200])
    )
