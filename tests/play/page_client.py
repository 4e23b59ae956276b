"""What asks a page to play with, and the nets and images that it is asked about."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import torch
from PIL import Image
from small import small_config

from m2o_fast.data.images import to_pillow
from m2o_fast.engine.build import build_translator
from m2o_fast.m2o import Domain
from m2o_fast.translators import system
from m2o_fast.translators.base import Translator

SAMPLES = {"color": torch.rand(2, 3, 32, 32) * 2 - 1, "gray": torch.rand(3, 1, 32, 32) * 2 - 1}


def png(image: torch.Tensor) -> str:
    file = io.BytesIO()
    to_pillow(image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


GRAY = {"file": png(SAMPLES["gray"][:1])}
ASKED: dict[str, Any] = {"run": 0, "image": GRAY, "source": "gray", "target": "color", "looks": [{}]}


def translator_of(name: str) -> Translator:
    """The last variant of a system with fresh and narrow nets."""
    variant = list(system(name).variants)[-1]
    domains = (Domain("color"), Domain("gray", channels=1, multimodal=False))
    return build_translator(small_config([f"system={name}", f"variant={variant}"]), domains).eval()


class Client:
    """Asks a page that is being served."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        known = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        request = urllib.request.Request(self.address + path, data=data, headers=known)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def images(self, **fields: Any) -> list[bytes]:
        status, reply = self.ask("translate", ASKED | {"looks": [{"seed": 1}]} | fields)
        assert status == 200, reply
        return [base64.b64decode(url.partition(",")[2]) for url in json.loads(reply)["images"]]


def pixels(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).tobytes()


def size_of(file: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(file)).size


def saved(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
