"""A page with two runs that is being served."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from page_client import SAMPLES, Client, translator_of

from m2o_fast.play import server
from m2o_fast.play.translators import Player
from m2o_fast.translators.base import Translator


@pytest.fixture(scope="module")
def translator() -> Translator:
    return translator_of("starganv2")


@pytest.fixture(scope="module")
def client(translator: Translator) -> Iterator[Client]:
    first = Player("first", "runs/a b", translator, "stretch", SAMPLES)
    app = server.application([first, Player("second", "hf:me/b", translator, "pad", {})])
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    (listening,) = running.servers[0].sockets
    yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}/")
    running.should_exit = True
    thread.join()


_listeners: list[list[tuple[str, int]]] = []  # of what is opened, by whatever way; an audit hook stays for ever


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listeners:
        _listeners[-1].append((str(arguments[0]), int(arguments[2])))  # type: ignore[call-overload]


sys.addaudithook(_listen)


@pytest.fixture
def opened_files() -> Iterator[list[tuple[str, int]]]:
    """(name, flags) of every file that this process opens from now on."""
    found: list[tuple[str, int]] = []
    _listeners.append(found)
    yield found
    _listeners.remove(found)
