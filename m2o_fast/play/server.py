"""The page and its answers, on the loopback interface: nothing is fetched from elsewhere, no image written to disk."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from m2o_fast.errors import UserError
from m2o_fast.play import HOST
from m2o_fast.play.looks import MOST_LOOKS, read_image_of, read_look, whole
from m2o_fast.play.translators import Player

LARGEST = 48 * 2**20  # bytes of a request: two photographs in base64
_PAGE = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def serve(players: Sequence[Player], port: int, ready: Callable[[str], None]) -> None:
    """Serves until it is interrupted; see :func:`m2o_fast.play.play`."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "no such port"
        raise UserError(f"--port {port}: {why}; choose another, or 0 for any that is free") from None
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    server = _Server(uvicorn.Config(application(players), log_level="warning", access_log=False))
    server.tell = lambda: ready(address)
    with listener:
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it is up."""

    tell: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.tell()


def application(players: Sequence[Player]) -> Starlette:
    """The page of some runs, and what it asks for."""

    async def page(request: Request) -> Response:
        return FileResponse(Path(__file__).with_name(_PAGE[request.url.path]), headers=_HEADERS)

    async def runs(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: [player.facts() for player in players]), headers=_HEADERS)

    async def sample(request: Request) -> Response:
        where = request.path_params
        player = _player(players, where["run"])
        return Response(player.sample(where["domain"], where["number"]), media_type="image/png", headers=_HEADERS)

    async def slides(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(_slides, players, await _body(request)), headers=_HEADERS)

    async def translate(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(_translated, players, await _body(request)), headers=_HEADERS)

    return Starlette(
        routes=[
            *(Route(path, page) for path in _PAGE),
            Route("/runs", runs),
            Route("/sample/{run:int}/{number:int}/{domain}", sample),
            Route("/slides", slides, methods=["POST"]),
            Route("/translate", translate, methods=["POST"]),
        ],
        # Another name for this address, which a foreign page may have, is no way in.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={UserError: _refused},
    )


def _slides(players: Sequence[Player], asked: Any) -> dict[str, int]:
    """How many sliders a direction has."""
    if not isinstance(asked, dict):
        raise UserError("a request must be an object with run, source and target")
    player = _player(players, whole(asked.get("run"), "run", len(players)))
    return {"slides": player.slides(str(asked.get("source")), str(asked.get("target")))}


def _translated(players: Sequence[Player], asked: Any) -> dict[str, Any]:
    """What the page asked for."""
    if not isinstance(asked, dict) or not isinstance(asked.get("looks"), list):
        raise UserError("a request must be an object with run, image, source, target and looks")
    if not 1 <= len(asked["looks"]) <= MOST_LOOKS:
        raise UserError(f"looks: {len(asked['looks'])}, but 1 to {MOST_LOOKS} can be made at once")
    image = read_image_of(asked.get("image"))
    looks = [read_look(look) for look in asked["looks"]]
    started = time.perf_counter()
    player = _player(players, whole(asked.get("run"), "run", len(players)))
    source, target = str(asked.get("source")), str(asked.get("target"))
    files = player.translate(image, source, target, looks)
    urls = [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in files]
    command = player.command(source, target, looks[0])
    return {"images": urls, "milliseconds": round(1000 * (time.perf_counter() - started), 1), "command": command}


async def _body(request: Request) -> Any:
    """The JSON of a request; a form of a foreign page cannot have this content type."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("a request must be application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise UserError(f"the images are larger than {LARGEST >> 20} MB together; make them smaller")
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise UserError("a request must be JSON") from None


def _player(players: Sequence[Player], number: int) -> Player:
    if not 0 <= number < len(players):
        raise UserError(f"there is no run {number}")
    return players[number]


async def _refused(_: Request, error: Exception) -> Response:
    words = str(error).encode(errors="backslashreplace").decode()  # half a surrogate pair is no text to send
    return JSONResponse({"error": words}, status_code=400, headers=_HEADERS)
