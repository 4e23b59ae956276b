"""The page to play with: what it answers, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from PIL import Image
from small import small_config
from tiny import tiny_config, tiny_digits

from m2o_fast.data.images import to_pillow
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.loop import train
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.play import directions, play, server
from m2o_fast.play.directions import main_directions
from m2o_fast.play.looks import read_look
from m2o_fast.play.translators import Player, open_players
from m2o_fast.randomness import torch_generator
from m2o_fast.report.publish import publish
from m2o_fast.translators import NAMES, system
from m2o_fast.translators.base import Translator

SAMPLES = {"color": torch.rand(2, 3, 32, 32) * 2 - 1, "gray": torch.rand(3, 1, 32, 32) * 2 - 1}


def translator_of(name: str) -> Translator:
    """The last variant of a system with fresh and narrow nets."""
    variant = list(system(name).variants)[-1]
    domains = (Domain("color"), Domain("gray", channels=1, multimodal=False))
    return build_translator(small_config([f"system={name}", f"variant={variant}"]), domains).eval()


@pytest.fixture(scope="module")
def translator() -> Translator:
    return translator_of("starganv2")


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
        asked = {"run": 0, "image": {"sample": 0}, "source": "gray", "target": "color", "looks": [{"seed": 1}]} | fields
        status, reply = self.ask("translate", asked)
        assert status == 200, reply
        return [base64.b64decode(url.partition(",")[2]) for url in json.loads(reply)["images"]]


@pytest.fixture(scope="module")
def client(translator: Translator) -> Iterator[Client]:
    app = server.application([Player("first", translator, "stretch", SAMPLES), Player("second", translator, "pad", {})])
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    (listening,) = running.servers[0].sockets
    yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}/")
    running.should_exit = True
    thread.join()


def pixels(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).tobytes()


def png(image: torch.Tensor) -> str:
    file = io.BytesIO()
    to_pillow(image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


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
    assert ways["color", "gray"] | {"style": False, "slides": 0} == ways["color", "gray"]
    assert ways["gray", "color"] | {"style": True, "slides": 4} == ways["gray", "color"]
    assert pixels(client.ask("sample/0/2/gray")[1]) == to_pillow(SAMPLES["gray"][2]).tobytes()
    assert client.ask("sample/0/3/gray")[0] == 400


@torch.inference_mode()
def test_a_seed_gives_the_look_of_the_command_line(client: Client, translator: Translator) -> None:
    """And the file says how to make it again."""
    (file,) = client.images(looks=[{"seed": 5}])
    style = translator.sample_style(1, "color", torch_generator(5, "translate", 0))
    made = translator.translate(SAMPLES["gray"][:1], "gray", "color", style=style)
    assert pixels(file) == to_pillow(made).tobytes()
    told = json.loads(Image.open(io.BytesIO(file)).text["m2o_fast"])
    assert told["look"] == {"seed": 5} and (told["source"], told["target"], told["run"]) == ("gray", "color", "first")
    assert torch.equal(torch.tensor(told["style"]), style[0])


@torch.inference_mode()
def test_a_reference_gives_its_style(client: Client, translator: Translator) -> None:
    reference = SAMPLES["color"][1:]
    rounded = torch.tensor(list(to_pillow(reference).tobytes())).view(32, 32, 3).permute(2, 0, 1)[None] / 127.5 - 1
    made = translator.translate(SAMPLES["gray"][:1], "gray", "color", reference=rounded)
    (file,) = client.images(looks=[{"reference": {"file": png(reference)}}])
    assert pixels(file) == to_pillow(made).tobytes()
    (picked,) = client.images(looks=[{"reference": {"sample": 1}}])
    assert (torch.tensor(list(pixels(picked))) - torch.tensor(list(pixels(file)))).abs().max() <= 1


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


@pytest.mark.parametrize("name", NAMES)
def test_every_system_can_be_played_with(name: str) -> None:
    player = Player(name, translator_of(name), "stretch", {})
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (9, 200, 30)).save(file, format="PNG")
    ways = player.facts()["directions"]
    assert ways
    for way in ways:
        looks = [read_look({"seed": 1, "other": {"seed": 2}, "share": 0.5}), read_look({"seed": 3})]
        made = player.translate(file.getvalue(), way["source"], way["target"], looks)
        assert (pixels(made[0]) != pixels(made[1])) <= way["style"]
        sizes = {Image.open(io.BytesIO(one)).size for one in made}
        assert sizes <= {(50, 40), (32, 32)} and len(sizes) == 1


def test_a_large_image_is_made_smaller_for_systems_of_any_size() -> None:
    player = Player("p", translator_of("cyclegan"), "stretch", {})
    file = io.BytesIO()
    Image.new("L", (1030, 600), 90).save(file, format="PNG")
    (made,) = player.translate(file.getvalue(), "gray", "color", [read_look({})])
    assert Image.open(io.BytesIO(made)).size == (512, 298)


TEXT = f"data:text/plain;base64,{base64.b64encode(b'no image').decode()}"
CUT = png(torch.zeros(3, 32, 32))[:-40]
REFUSED = {
    "no JSON": (b"{", "a request must be JSON"),
    "too deep": (b"[" * 100_000, "a request must be JSON"),
    "a list": ([], "a request must be an object"),
    "no looks": ({"looks": []}, "1 to 24 can be made at once"),
    "many looks": ({"looks": [{}] * 25}, "1 to 24 can be made at once"),
    "a look of another kind": ({"looks": [3]}, "a look must be an object"),
    "an unknown key": ({"looks": [{"sed": 1}]}, "keys of other, reference, seed, share, slides"),
    "a seed below 0": ({"looks": [{"seed": -1}]}, "seed must be a whole number"),
    "a huge seed": ({"looks": [{"seed": 2**70}]}, "seed must be a whole number"),
    "a seed that is no number": ({"looks": [{"seed": "x"}]}, "seed must be a whole number"),
    "slides that are none": ({"looks": [{"slides": "x"}]}, "slides must be a list"),
    "a slide that is none": ({"looks": [{"slides": [None]}]}, "a slide must be a number"),
    "not a number": (b'{"run":0,"looks":[{"share":NaN}],"image":{"sample":0}}', "share must be a number"),
    "a look B of another kind": ({"looks": [{"other": [1]}]}, "look B must be an object"),
    "a look C": ({"looks": [{"other": {"other": {}}}]}, "look B must be an object"),
    "no such run": ({"run": 2}, "there is no run 2"),
    "a run that is no number": ({"run": "0"}, "run must be a whole number"),
    "no such sample": ({"image": {"sample": 3}}, "has no image 3 of gray"),
    "a path as image": ({"image": "/etc/passwd"}, "an image must be an object"),
    "an address as image": ({"image": {"file": "http://127.0.0.1/"}}, "base64 data URL"),
    "damaged base64": ({"image": {"file": "data:image/png;base64,%%"}}, "base64 cannot be read"),
    "a text": ({"image": {"file": TEXT}}, "the image: not an image of a known format"),
    "an image cut off": ({"image": {"file": CUT}}, "the image: the image is damaged"),
    "a reference cut off": ({"looks": [{"reference": {"file": CUT}}]}, "the reference: the image is damaged"),
    "an unknown domain": ({"target": "maps"}, "has not learned gray to maps"),
    "a domain that is none": ({"source": ["gray"]}, "has not learned"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_sentence(client: Client, case: str) -> None:
    asked, words = REFUSED[case]
    whole = {"run": 0, "image": {"sample": 0}, "source": "gray", "target": "color", "looks": [{}]}
    status, reply = client.ask("translate", whole | asked if isinstance(asked, dict) else asked)
    assert status == 400 and words in json.loads(reply)["error"], reply


def test_foreign_pages_have_no_way_in(client: Client) -> None:
    assert client.ask("runs", Host="evil.example")[0] == 400
    status, reply = client.ask("translate", {}, Content_Type="text/plain")  # what a form can send unasked
    assert status == 400 and "application/json" in json.loads(reply)["error"]
    for path in ("../play/server.py", "server.py", "page.html", "%2e%2e/server.py"):
        assert client.ask(path)[0] == 404


def test_too_large_a_request_is_not_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST", 1000)
    status, reply = client.ask("translate", {"image": {"file": "x" * 2000}})
    assert status == 400 and "larger than 0 MB" in json.loads(reply)["error"]


def test_browsers_do_not_disturb_each_other(client: Client) -> None:
    """Nor does anything reach the disk."""
    alone = [client.images(looks=[{"seed": seed}])[0] for seed in range(4)]
    found: dict[int, list[bytes]] = {}

    def ask(seed: int) -> None:
        found[seed] = [client.images(looks=[{"seed": seed}])[0] for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seed: set(files) for seed, files in found.items()} == {seed: {file} for seed, file in enumerate(alone)}


def test_nothing_is_written(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        "builtins.open", lambda file, mode="r", *a, real=open, **k: opened.append(mode) or real(file, mode, *a, **k)
    )
    client.images(image={"file": png(torch.zeros(3, 700, 900))})
    assert not [mode for mode in opened if set("wax+") & set(mode)]


def test_a_port_that_is_taken_is_named(client: Client) -> None:
    port = int(client.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose another"):
        server.serve([], port, print)


def test_runs_and_published_models_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "steps=2"), tmp_path / "run")
    publish(tmp_path / "run", tmp_path / "model", "mit")
    run, model = (player.facts() for player in open_players([tmp_path / "run", tmp_path / "model"], "cpu", None))
    assert (run["name"], model["name"]) == (f"{tmp_path / 'run'}, step 2", str(tmp_path / "model"))
    assert [domain["samples"] for domain in (*run["domains"], *model["domains"])] == [6, 6, 0, 0]
    assert run["directions"] == model["directions"]


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        play([tmp_path / "none"])
