"""The page and its answers, on the loopback interface: nothing is fetched from elsewhere, no image written to disk."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
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

_LONGEST = 500  # characters of an answer that refuses
_OBJECTS = 16 * MOST_LOOKS
_CONNECTIONS = 32  # at the same time; each may send so much
_WAIT = 2  # seconds that a request may still take once the page is ended
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
    server = _Server(
        uvicorn.Config(
            application(players),
            log_level="critical",  # of a request that is cut off at the end it would print a traceback
            access_log=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_WAIT,
        )
    )
    server.tell = lambda: ready(address)
    with listener:
        server.run(sockets=[listener])


class _Json(JSONResponse):
    """Names of files are bytes: what of them is no text is escaped, where UTF-8 has no room for it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


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
        return _Json(await run_in_threadpool(lambda: [player.facts() for player in players]), headers=_HEADERS)

    async def sample(request: Request) -> Response:
        where = request.path_params
        run, number = (_in_path(where[name]) for name in ("run", "number"))
        return Response(_player(players, run).sample(where["domain"], number), media_type="image/png", headers=_HEADERS)

    turns = Lock()  # one request after the other is parsed, decoded and translated, or memory would have no bound

    def in_turn(body: bytes) -> dict[str, Any]:
        with turns:
            return _translated(players, _parsed(body))

    async def slides(request: Request) -> Response:
        body = await _body(request)
        return _Json(await run_in_threadpool(lambda: _slides(players, _parsed(body))), headers=_HEADERS)

    async def translate(request: Request) -> Response:
        return _Json(await run_in_threadpool(in_turn, await _body(request)), headers=_HEADERS)

    return Starlette(
        routes=[
            *(Route(path, page) for path in _PAGE),
            Route("/runs", runs),
            Route("/sample/{run}/{number}/{domain}", sample),
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


def _in_path(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 10):
        raise UserError("the number of a run or image must be a whole number")
    return int(word)


async def _body(request: Request) -> bytes:
    """What was sent; a form of a foreign page cannot have this content type."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("a request must be application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise UserError(f"the images are larger than {LARGEST >> 20} MB together; make them smaller")
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> Any:
    if body.count(b"{") + body.count(b"[") > _OBJECTS:  # images, in base64, have none
        raise UserError(f"a request must be JSON with at most {_OBJECTS} objects and lists")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("a request must be JSON") from None


def _player(players: Sequence[Player], number: int) -> Player:
    if not 0 <= number < len(players):
        raise UserError(f"there is no run {number}")
    return players[number]


async def _refused(_: Request, error: Exception) -> Response:
    words = str(error)[:_LONGEST].encode(errors="backslashreplace").decode()  # half a surrogate pair is no text to send
    return _Json({"error": words}, status_code=400, headers=_HEADERS)
