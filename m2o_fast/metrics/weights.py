"""Weight files of published networks: where they are looked for, how they are checked, fetched and read."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.files import inflates, replacing, user_cache
from m2o_fast.nn.misfits import misfits

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Published:
    """A file that its authors publish.

    Attributes:
        url: Where.
        sha256: SHA-256 of the file in hexadecimal; where the authors publish but its first digits, in the name of the
            file, those.
    """

    url: str
    sha256: str


_TORCHVISION = "https://download.pytorch.org/models/"

#: By the name of the file.
PUBLISHED = {
    "inception_v3_google-0cc3c7bd.pth": Published(f"{_TORCHVISION}inception_v3_google-0cc3c7bd.pth", "0cc3c7bd"),
    "inception_v3_google-1a9a5a14.pth": Published(f"{_TORCHVISION}inception_v3_google-1a9a5a14.pth", "1a9a5a14"),
    "pt_inception-2015-12-05-6726825d.pth": Published(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "alexnet-owt-7be5be79.pth": Published(
        f"{_TORCHVISION}alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "alex.pth": Published(
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}


def find_weights(file: str, *, download: bool = False) -> tuple[Path, str]:
    """The path and the SHA-256 of a weight file.

    Args:
        file: A path. A bare name of a published file that is not in the current folder is looked for in the cache.
        download: Whether a published file that is not there is fetched, to the place where it was looked for.

    Raises:
        UserError: No such file (with its address, if it is a published one), or one that bears the name of a published
            file but has other content.
    """
    path = Path(file).expanduser()
    known = PUBLISHED.get(path.name)
    if known is not None and not path.exists() and path.name == file:
        path = user_cache() / "weights" / file
    if not path.is_file():
        if known is None:
            names = ", ".join(PUBLISHED)
            raise UserError(f"{path}: no such file; published weights with a known address are {names}")
        if not download:
            raise UserError(
                f"{path}: no such file. Add --download to fetch it, or get {known.url} yourself "
                f"(SHA-256 {_words(known)})"
            )
        _fetch(path, known)
    digest = file_sha256(path)
    if known is not None and not digest.startswith(known.sha256):
        raise UserError(
            f"{path}: SHA-256 is {digest}, but the published file's is {_words(known)}; delete it and get {known.url}"
        )
    return path, digest


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` file, or in one that ``torch.save`` wrote; nothing in it is run.

    Raises:
        UserError: A damaged file, or one that does not hold names and tensors.
    """
    if inflates(path):
        raise UserError(f"{path}: refused: it holds compressed parts, and torch.save writes none")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error
    except Exception as error:  # torch raises many kinds, among them for files with code
        reason = re.sub(r"\s+", " ", str(error))[:160]
        raise UserError(f"{path} is no file of weights that torch reads without running code: {reason}") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict (names to tensors)")
    return {str(key): value for key, value in state.items()}


def fill(net: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads exactly the tensors that ``net`` has.

    Raises:
        UserError: Some are missing, superfluous or of another shape; names them.
    """
    if problems := misfits(net.state_dict(), state):
        raise UserError(f"{where}: the weights do not fit: {problems}")
    net.load_state_dict(dict(state))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises ``UserError`` if it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise UserError(f"cannot read {path}: it is not a regular file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _fetch(path: Path, known: Published) -> None:
    """Copies a published file to ``path``, which appears only when it is whole and checked."""
    digest = hashlib.sha256()
    try:
        with replacing(path) as file:
            for chunk in _chunks(known.url, path):
                digest.update(chunk)
                file.write(chunk)
            if not digest.hexdigest().startswith(known.sha256):
                raise UserError(
                    f"{known.url} came with SHA-256 {digest.hexdigest()}, but {_words(known)} is expected; it was not "
                    "kept. Try again"
                )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def _chunks(url: str, path: Path) -> Iterator[bytes]:
    request = urllib.request.Request(url, headers={"User-Agent": "m2o-fast"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            while chunk := response.read(_CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:  # of all kinds: refused, not found, timed out, TLS
        raise UserError(
            f"cannot fetch {url}: {error}. Check the network and try again, or put the file at {path} by hand"
        ) from error


def _words(known: Published) -> str:
    return known.sha256 if len(known.sha256) == 64 else f"{known.sha256}..., as far as it is published"
