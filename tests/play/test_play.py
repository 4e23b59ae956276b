"""The page to play with: what it answers."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from page_client import ASKED, GRAY, SAMPLES, Client, pixels, png, saved, size_of, translator_of
from PIL import Image
from tiny import tiny_config, tiny_digits

from m2o_fast.cli import main
from m2o_fast.data.images import to_pillow
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.looks import drawn
from m2o_fast.engine.loop import train
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.play import directions, play, server
from m2o_fast.play.directions import main_directions
from m2o_fast.play.looks import Picture, read_look
from m2o_fast.play.translators import Player, open_players
from m2o_fast.report.publish import publish
from m2o_fast.translators import NAMES
from m2o_fast.translators.base import Translator


def test_page_is_served_whole(client: Client) -> None:
    for path, beginning in (("", b"<!doctype html>"), ("page.js", b'"use strict"'), ("page.css", b":root")):
        status, found = client.ask(path)
        assert status == 200 and found.startswith(beginning)
        assert b"http://" not in found and b"https://" not in found
    with urllib.request.urlopen(client.address) as reply:
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'self';")


def test_facts_of_both_runs(client: Client) -> None:
    first, second = json.loads(client.ask("runs")[1])
    assert [domain["samples"] for domain in first["domains"]] == [2, 3]
    assert [domain["samples"] for domain in second["domains"]] == [0, 0]
    ways = {(way["source"], way["target"]): way for way in first["directions"]}
    assert not ways["color", "gray"]["style"] and ways["gray", "color"]["style"]
    assert pixels(client.ask("sample/0/2/gray")[1]) == to_pillow(SAMPLES["gray"][2]).tobytes()
    for place in ("sample/0/3/gray", f"sample/{'9' * 5000}/0/gray", "sample/x/0/gray", "sample/0/-1/gray"):
        assert client.ask(place)[0] == 400, place


def test_main_directions_are_looked_for_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is there at once, and the nets are free between batches."""
    player = Player("p", "p", translator_of("starganv2"), "stretch", SAMPLES)
    sizes, translate = [], player._translator.translate

    def counted(x: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        sizes.append(len(x))
        assert player._turn.locked()
        return translate(x, *arguments, **more)

    monkeypatch.setattr(player._translator, "translate", counted)
    monkeypatch.setattr(directions, "images_at_once", lambda pixels, device: 50)
    monkeypatch.setattr(directions.time, "sleep", lambda _: sizes.append(int(player._turn.locked())))
    player.facts()
    player.translate(Picture(saved(Image.new("L", (32, 32)))), "gray", "color", [read_look({})])
    assert sum(sizes) <= 1
    sizes.clear()
    assert [player.slides("gray", "color"), player.slides("gray", "color"), player.slides("color", "gray")] == [4, 4, 0]
    assert sizes == [50, 0, 50, 0, 28, 0]


def test_slides_are_asked_for_by_direction(client: Client) -> None:
    asked = {"run": 0, "source": "gray", "target": "color"}
    assert json.loads(client.ask("slides", asked)[1]) == {"slides": 4}
    for wrong in ([], asked | {"run": 2}, asked | {"target": "gray"}):
        assert client.ask("slides", wrong)[0] == 400


def command_of(client: Client, **asked: Any) -> str | None:
    found: str | None = json.loads(client.ask("translate", ASKED | asked)[1])["command"]
    return found


def test_the_command_is_that_of_what_was_asked(client: Client) -> None:
    begin = "m2o-fast translate IMAGE --run 'runs/a b' --from gray --to color"
    assert command_of(client, looks=[{"seed": 5}, {"seed": 6}]) == f"{begin} --seed 5 --out OUT.png"
    reference = {"reference": {"file": png(SAMPLES["color"][:1])}}
    assert command_of(client, looks=[reference]) == f"{begin} --reference REFERENCE --out OUT.png"
    assert command_of(client, looks=[{"slides": [1]}]) is None
    assert command_of(client, looks=[{"other": {"seed": 2}}]) is None
    plain = command_of(client, run=1, source="color", target="gray", image={"file": png(SAMPLES["color"][:1])})
    assert plain == "m2o-fast translate IMAGE --run hf:me/b --from color --to gray --out OUT.png"


def test_a_seed_gives_the_look_of_the_command_line(client: Client, translator: Translator, tmp_path: Path) -> None:
    """And the file says how to make it again."""
    (file,) = client.images(looks=[{"seed": 5}])
    (tmp_path / "in.png").write_bytes(base64.b64decode(GRAY["file"].partition(",")[2]))
    translate_path(translator, tmp_path / "in.png", tmp_path / "out.png", Request("color", seed=5))
    assert pixels(file) == pixels((tmp_path / "out.png").read_bytes())
    told = json.loads(Image.open(io.BytesIO(file)).text["m2o_fast"])
    assert told["look"] == {"seed": 5} and (told["source"], told["target"], told["run"]) == ("gray", "color", "first")
    assert torch.equal(torch.tensor(told["style"]), drawn(translator, translator.domain("color"), 5)[0])


def test_a_reference_gives_its_style(client: Client, translator: Translator, tmp_path: Path) -> None:
    reference = png(SAMPLES["color"][1:])
    (file,) = client.images(looks=[{"reference": {"file": reference}}])
    for name, url in (("in", GRAY["file"]), ("reference", reference)):
        (tmp_path / f"{name}.png").write_bytes(base64.b64decode(url.partition(",")[2]))
    request = Request("color", reference=tmp_path / "reference.png")
    translate_path(translator, tmp_path / "in.png", tmp_path / "out.png", request)
    assert pixels(file) == pixels((tmp_path / "out.png").read_bytes())
    told = json.loads(Image.open(io.BytesIO(file)).text["m2o_fast"])
    assert told["look"] == {"reference": "an image"}


def test_looks_between_begin_and_end_at_both(client: Client) -> None:
    ends = client.images(looks=[{"seed": 1}, {"seed": 2}])
    first, last = client.images(looks=[{"seed": 1, "other": {"seed": 2}, "share": share} for share in (0, 1)])
    assert [pixels(file) for file in (first, last)] == [pixels(file) for file in ends]
    there, back = (
        client.images(looks=[{"seed": a, "other": {"seed": b}, "share": share} for share in shares])
        for a, b, shares in ((1, 2, (0.25, 0.5)), (2, 1, (0.75, 0.5)))
    )
    for one, other in zip(there, back, strict=True):
        assert (torch.tensor(list(pixels(one))) - torch.tensor(list(pixels(other)))).abs().max() <= 1


def test_slides_move_along_main_directions(client: Client, translator: Translator) -> None:
    moved, told = client.images(looks=[{"seed": 1, "slides": [0, 2]}])[0], client.images(looks=[{"seed": 1}])[0]
    styles = [
        torch.tensor(json.loads(Image.open(io.BytesIO(file)).text["m2o_fast"])["style"]) for file in (moved, told)
    ]
    expected = 2 * main_directions(translator, SAMPLES["gray"][:1], "gray", "color")[1]
    torch.testing.assert_close(styles[0] - styles[1], expected)


class Linear:
    """Outputs are known: the style's third number brightens, the first one tints, the others do nothing."""

    def has_style(self, target: str) -> bool:
        return True

    def style_shape(self, target: str) -> tuple[int, ...]:
        return (6,)

    def sample_style(self, count: int, target: str, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 6, generator=generator)

    def translate(self, x: torch.Tensor, source: str, target: str, *, style: torch.Tensor) -> torch.Tensor:
        bright, tint = style[:, 2, None, None, None], style[:, 0, None, None, None]
        return x + 3 * bright + tint * torch.tensor([1.0, 0, -1]).view(1, 3, 1, 1)


def test_main_directions_of_a_linear_translator() -> None:
    found = main_directions(Linear(), torch.zeros(1, 3, 16, 16), "a", "b")  # type: ignore[arg-type]
    assert found.shape == (2, 6)  # what does nothing is no direction
    noise = 4 / directions._SAMPLES**0.5
    assert (found[0] - torch.eye(6)[2]).abs().max() < noise  # brighter, not darker
    assert (found[1].abs() - torch.eye(6)[0]).abs().max() < noise


def test_no_slider_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an output becomes neither brighter nor darker."""
    svd = torch.linalg.svd

    def balanced(*arguments: Any, **more: Any) -> Any:
        left, sizes, components = svd(*arguments, **more)
        components[1] = torch.tensor([1.0, -1.0]).repeat(components.shape[1] // 2)
        return left, sizes, components

    monkeypatch.setattr(torch.linalg, "svd", balanced)
    found = main_directions(Linear(), torch.zeros(1, 3, 16, 16), "a", "b")  # type: ignore[arg-type]
    assert (found.norm(dim=1) > 0.5).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_system_can_be_played_with(name: str) -> None:
    player = Player(name, name, translator_of(name), "stretch", {})
    file = saved(Image.new("RGB", (50, 40), (9, 200, 30)))
    ways = player.facts()["directions"]
    assert ways
    for way in ways:
        looks = [read_look({"seed": 1, "other": {"seed": 2}, "share": 0.5}), read_look({"seed": 3})]
        made = player.translate(Picture(file), way["source"], way["target"], looks)
        assert (pixels(made[0]) != pixels(made[1])) <= way["style"]
        sizes = {size_of(one) for one in made}
        assert sizes <= {(50, 40), (32, 32)} and len(sizes) == 1


def test_a_large_image_is_made_smaller_for_systems_of_any_size() -> None:
    """And what was drawn gets the size that the nets were trained with."""
    player = Player("p", "p", translator_of("cyclegan"), "stretch", {})
    for picture, size in (
        (Picture(saved(Image.new("L", (1030, 600), 90))), (512, 298)),
        (Picture(saved(Image.new("L", (256, 256), 90)), drawn=True), (32, 32)),
        (Picture(saved(Image.new("L", (256, 256), 90))), (256, 256)),
    ):
        (made,) = player.translate(picture, "gray", "color", [read_look({})])
        assert size_of(made) == size


def test_runs_and_published_models_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "steps=2"), tmp_path / "run")
    publish(tmp_path / "run", tmp_path / "model", "mit")
    players = open_players([tmp_path / "run", tmp_path / "model"], "cpu", None)
    run, model = (player.facts() for player in players)
    commands = [player.command("gray", "color", read_look({})) or "" for player in players]
    assert f"--run {tmp_path / 'run' / 'checkpoints' / 'step-00000002'} " in commands[0]
    assert f"--run {tmp_path / 'model'} " in commands[1]
    assert (run["name"], model["name"]) == (f"{tmp_path / 'run'}, step 2", str(tmp_path / "model"))
    assert [domain["samples"] for domain in (*run["domains"], *model["domains"])] == [6, 6, 0, 0]
    assert run["directions"] == model["directions"]


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        play([tmp_path / "none"])


def test_the_command_serves_until_it_is_interrupted(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while somebody is slow to ask."""
    save_translator(translator, tmp_path / "weights")
    found: list[tuple[int, bytes]] = []
    slow: list[socket.socket] = []

    def told(line: str) -> None:
        address = line.removeprefix("open ").removesuffix(" (Ctrl-C ends it)")

        def ask_and_stop() -> None:
            try:
                found.append(Client(address).ask("runs"))
                slow.append(socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))))
                head = b"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                slow[0].sendall(head + b"Content-Length: 1000\r\n\r\n{")
                time.sleep(0.2)  # until it is read
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=ask_and_stop).start()

    monkeypatch.setattr("typer.echo", told)
    monkeypatch.setattr(server, "_WAIT", 1)
    assert main(["play", str(tmp_path / "weights"), "--port", "0", "--device", "cpu"]) == 130
    slow[0].close()
    ((status, reply),) = found
    assert status == 200 and json.loads(reply)[0]["name"] == f"{tmp_path / 'weights'}, step 0"
