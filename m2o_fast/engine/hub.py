"""Models on the Hugging Face hub: fetched by name, uploaded when that is asked for. Needs huggingface_hub."""

from __future__ import annotations

import re
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
    nothing else is.

    Args:
        name: ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION``.
        revision: Branch, tag or commit; ``None``: the main branch.

    Raises:
        UserError: There is none, it is no model of this package, or it cannot be fetched.
    """
    repository, at, named = str(name)[len(PREFIX) :].partition("@")
    check_name(repository)
    if at and revision is not None:
        raise UserError(f"{name}: the revision is given twice; leave one of {named} and {revision} out")
    with _hub(f"{PREFIX}{repository}") as api:
        config, commit = _fetch(api, repository, CONFIG, revision or named or None, LARGEST_CONFIG)
        most = largest_weights(weightless(read_config(config), config))
        return _fetch(api, repository, WEIGHTS, commit, most)[0].parent


def push(folder: Path, repository: str) -> str:
    """Uploads a published model; the repository is made, private, if it is not there.

    Args:
        folder: What ``m2o-fast publish --out`` wrote.
        repository: ``ORG/NAME``.

    Returns:
        Its address.

    Raises:
        UserError: A name that cannot be one, no permission, or no connection.
    """
    check_name(repository)
    with _hub(f"{PREFIX}{repository}") as api:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model of m2o_fast")
        return f"{api.endpoint}/{repository}"


def check_name(repository: str) -> None:
    """Raises ``UserError`` for what cannot be the name of a repository."""
    if not _NAME.fullmatch(repository) or ".." in repository:
        raise UserError(f"{repository!r:.100} is no name of a repository; it must be ORG/NAME")


def _fetch(api: Any, repository: str, file: str, revision: str | None, most: int) -> tuple[Path, str]:
    """A file of a repository that has no more than ``most`` bytes, and the commit it is of."""
    from huggingface_hub import hf_hub_url

    facts = api.get_hf_file_metadata(url=hf_hub_url(repository, file, revision=revision, endpoint=api.endpoint))
    if facts.size is None or facts.size > most:
        raise UserError(f"{PREFIX}{repository}: {file} has {facts.size} bytes, and at most {most:,} are expected")
    return Path(api.hf_hub_download(repository, file, revision=facts.commit_hash)), facts.commit_hash


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
