"""Processes of one training, forked from a server that has imported everything: starting them takes no second."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_FIRST, _COUNT = 12_000, 20_000  # below those that the kernel gives away
_ports = ((_FIRST + (os.getpid() * 37 + number) % _COUNT) for number in range(_COUNT))
_CONTEXT = multiprocessing.get_context("forkserver")
# Adam needs torch._dynamo, and the modules of what is called need pytest.
_CONTEXT.set_forkserver_preload(["m2o_fast.cli.app", "m2o_fast.engine.loop", "torch._dynamo", "pytest"])


_HANGS = 600  # seconds, also on a machine with much else to do


class Outcome(NamedTuple):
    """How a process ended: its exit code (minus the signal that killed it) and what it printed."""

    code: int | None
    said: str
    errors: str


def free_port() -> int:
    """A port that nobody else takes before it is used: none that the kernel gives away, and of each process others."""
    for port in _ports:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def together(count: int, folder: Path, target: Callable[..., int], *arguments: object) -> list[Outcome]:
    """Calls ``target`` in ``count`` processes that find each other; one that hangs is killed and has exit code -9.

    Args:
        count: How many processes.
        folder: An existing folder for what they print.
        target: A function of a module; what it returns is the exit code. It sees the tiny data set.
        arguments: What it is called with.
    """
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    processes = []
    for rank in range(count):
        environment = {**where, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        printed = (str(folder / f"said-{rank}"), str(folder / f"errors-{rank}"))
        processes.append(_CONTEXT.Process(target=_run, args=(environment, printed, target, arguments)))
        processes[-1].start()
    outcomes = []
    for rank, process in enumerate(processes):
        process.join(_HANGS)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [(folder / f"{kind}-{rank}").read_text() for kind in ("said", "errors")]
        outcomes.append(Outcome(process.exitcode, *texts))
    return outcomes


def _run(
    environment: dict[str, str], printed: tuple[str, str], target: Callable[..., int], arguments: tuple[object, ...]
) -> None:
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    import torch
    from tiny import tiny_digits

    import m2o_fast.engine.build as build

    torch.set_num_threads(1)
    build.open_dataset = tiny_digits  # type: ignore[assignment]
    sys.exit(target(*arguments))
