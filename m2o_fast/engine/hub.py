"""Models on the Hugging Face hub: fetched by name, uploaded when that is asked for. Needs huggingface_hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2o_fast.engine.checkpoint import weightless
from m2o_fast.engine.model_folder import CONFIG, LARGEST_CONFIG, WEIGHTS, largest_weights, read_config
from m2o_fast.errors import UserError

PREFIX = "hf:"
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_hub_name(path: str | Path | None) -> bool:
    """Whether this is a model on the hub, ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``, not a folder."""
    return path is not None and str(path).startswith(PREFIX)


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of a model from the hub, downloaded where it is not there yet.

    ``config.json`` is fetched first, then the weights, where they have no more bytes than the nets that it describes;
    nothing else is. Where the hub cannot be reached, what was fetched before is used, with a warning.

    Args:
        name: ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION``.
        revision: Branch, tag or commit; ``None``: the main branch.

    Raises:
        UserError: There is none, it is no model of this package, or it cannot be fetched and is not here.
    """
    repository, at, named = str(name)[len(PREFIX) :].partition("@")
    check_name(repository)
    if at and revision is not None:
        raise UserError(f"{name}: the revision is given twice; leave one of {named} and {revision} out")
    asked = revision or named or None
    with _hub(f"{PREFIX}{repository}") as api:
        try:
            config = _fetch(api, repository, CONFIG, asked, LARGEST_CONFIG)
            most = largest_weights(weightless(read_config(config), config))
            return _fetch(api, repository, WEIGHTS, config.parent.name, most).parent  # a folder for each commit
        except Exception as error:
            kept = None if _is_answer(error) else _kept(repository, asked)
            if kept is None:
                raise
            words = f"{name}: the hub cannot be reached; taking commit {kept.name:.12}, fetched before: {_line(error)}"
            warnings.warn(words, RuntimeWarning, stacklevel=3)
            return kept


def push(folder: Path, repository: str) -> tuple[str, bool]:
    """Uploads a published model as it lies; the repository is made, private, if it is not there.

    Args:
        folder: What ``m2o-fast publish --out`` wrote.
        repository: ``ORG/NAME``.

    Returns:
        Its address, and whether it is closed to others: one that was there stays as it was.

    Raises:
        UserError: A name that cannot be one, no permission, or no connection.
    """
    check_name(repository)
    with _hub(f"{PREFIX}{repository}") as api:
        api.create_repo(repository, private=True, exist_ok=True)
        is_private = bool(api.repo_info(repository).private)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model of m2o_fast")
        return f"{api.endpoint}/{repository}", is_private


def check_name(repository: str) -> None:
    """Raises ``UserError`` for what cannot be the name of a repository."""
    if not _NAME.fullmatch(repository) or ".." in repository:
        raise UserError(f"{repository!r:.100} is no name of a repository; it must be ORG/NAME")


def _fetch(api: Any, repository: str, file: str, revision: str | None, most: int) -> Path:
    """A file of a repository that has no more than ``most`` bytes."""
    from huggingface_hub import hf_hub_url

    facts = api.get_hf_file_metadata(url=hf_hub_url(repository, file, revision=revision, endpoint=api.endpoint))
    if facts.size is None or facts.size > most:
        raise UserError(f"{PREFIX}{repository}: {file} has {facts.size} bytes, and at most {most:,} are expected")
    return Path(api.hf_hub_download(repository, file, revision=revision))  # notes which commit a branch is at


def _is_answer(error: Exception) -> bool:
    """Whether the hub said so; else it could not be reached, or must not be (``HF_HUB_OFFLINE``)."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, UserError | HfHubHTTPError)


def _kept(repository: str, revision: str | None) -> Path | None:
    """The folder of a model that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    places = (try_to_load_from_cache(repository, file, revision=revision) for file in (CONFIG, WEIGHTS))
    found = [Path(place) for place in places if isinstance(place, str)]
    return found[0].parent if len(found) == 2 else None


@contextmanager
def _hub(what: str) -> Iterator[Any]:
    """huggingface_hub's API, with its errors in a sentence."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise UserError(f"{what}: needs huggingface_hub; pip install 'm2o-fast[hub]'") from None
    try:
        yield HfApi()
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise UserError(f"{what}: no such repository, or one that is closed to you (hf auth login)") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{what}: no such revision") from error
    except Exception as error:  # those of connections depend on the version of huggingface_hub
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(f"{what}: no model of m2o_fast: a file is missing: {_line(error)}") from error
        raise UserError(f"{what}: the hub cannot be reached, or refuses: {_line(error)}") from error


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
