"""The page to play with: what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import base64
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from page_client import ASKED, Client, pixels, png

from m2o_fast.errors import UserError
from m2o_fast.play import server, translators
from m2o_fast.play.directions import main_directions
from m2o_fast.play.translators import Player
from m2o_fast.translators.base import Translator

TEXT = f"data:text/plain;base64,{base64.b64encode(b'no image').decode()}"
CUT = png(torch.zeros(3, 32, 32))[:-40]
REFUSED = {
    "no JSON": (b"{", "a request must be JSON"),
    "too deep": (b"[" * 100_000, "at most 384 objects and lists"),
    "too many objects": (b'{"looks": [' + b"{}," * 400 + b"{}]}", "at most 384 objects and lists"),
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
    "not a number": ({"looks": [{"share": float("nan")}]}, "share must be a number"),
    "a look B of another kind": ({"looks": [{"other": [1]}]}, "look B must be an object"),
    "a look C": ({"looks": [{"other": {"other": {}}}]}, "look B must be an object"),
    "no such run": ({"run": 2}, "there is no run 2"),
    "a run that is no number": ({"run": "0"}, "run must be a whole number"),
    "a sample's number": ({"image": {"sample": 3}}, "an image must be an object with keys of drawn, file"),
    "a path as image": ({"image": "/etc/passwd"}, "an image must be an object"),
    "an address as image": ({"image": {"file": "http://127.0.0.1/"}}, "base64 data URL"),
    "damaged base64": ({"image": {"file": "data:image/png;base64,%%"}}, "base64 cannot be read"),
    "a text": ({"image": {"file": TEXT}}, "the image: not an image of a known format"),
    "an image cut off": ({"image": {"file": CUT}}, "the image: the image is damaged"),
    "a reference cut off": ({"looks": [{"reference": {"file": CUT}}]}, "the reference: the image is damaged"),
    "base64 that is no ASCII": ({"image": {"file": "data:image/png;base64,\u00e9"}}, "base64 cannot be read"),
    "a slide that is no number": ({"looks": [{"slides": ["1"]}]}, "a slide must be a number"),
    "no text": ({"source": "\ud800"}, "has not learned \\ud800 to color"),
    "an unknown domain": ({"target": "maps"}, "has not learned gray to maps"),
    "a domain that is none": ({"source": ["gray"]}, "has not learned"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_sentence(client: Client, case: str) -> None:
    asked, words = REFUSED[case]
    status, reply = client.ask("translate", ASKED | asked if isinstance(asked, dict) else asked)
    assert status == 400 and words in json.loads(reply)["error"], reply


def test_a_slide_of_any_length_is_a_number(client: Client) -> None:
    far, farthest = client.images(looks=[{"slides": [10**400]}, {"slides": [10]}])
    assert pixels(far) == pixels(farthest)


def test_too_little_memory_is_a_sentence(client: Client, translator: Translator, monkeypatch: Any) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    monkeypatch.setattr(translator, "translate_many", full)
    status, reply = client.ask("translate", ASKED)
    assert (status, json.loads(reply)) == (400, {"error": "out of memory: take a smaller image, or fewer looks"})


def test_nets_that_went_wrong_are_a_sentence(client: Client, translator: Translator, monkeypatch: Any) -> None:
    """And have no sliders."""
    for name in ("translate", "translate_many"):
        made = getattr(translator, name)
        monkeypatch.setattr(translator, name, lambda *a, made=made, **more: made(*a, **more) / 0)
    status, reply = client.ask("translate", ASKED)
    assert status == 400 and "first gives values that are not finite" in json.loads(reply)["error"]
    assert len(main_directions(translator, torch.zeros(1, 1, 32, 32), "gray", "color")) == 0


def test_a_name_that_is_no_text_is_shown(translator: Translator) -> None:
    """Folders may be called anything."""
    name = os.fsdecode(b"run-\xff")
    player = Player(name, name, translator, "stretch", {})
    assert json.loads(server._Json(player.facts()).body)["name"] == name


def test_foreign_pages_have_no_way_in(client: Client) -> None:
    assert client.ask("runs", Host="evil.example")[0] == 400
    status, reply = client.ask("translate", {}, Content_Type="text/plain")  # what a form can send unasked
    assert status == 400 and "application/json" in json.loads(reply)["error"]
    for path in ("../play/server.py", "server.py", "page.html", "%2e%2e/server.py"):
        assert client.ask(path)[0] == 404


def test_an_image_of_many_pixels_is_not_decoded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translators, "MOST_PIXELS", 899)
    large = png(torch.zeros(3, 30, 30))
    for asked in ({"image": {"file": large}}, {"looks": [{"reference": {"file": large}}]}):
        small = {"image": {"file": png(torch.zeros(1, 9, 9))}}
        status, reply = client.ask("translate", ASKED | small | asked)
        assert status == 400 and "30 x 30 pixels are too many here" in json.loads(reply)["error"]


def test_too_large_a_request_is_not_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST", 1000)
    status, reply = client.ask("translate", {"image": {"file": "x" * 2000}})
    assert status == 400 and "larger than 0 MB" in json.loads(reply)["error"]


def test_browsers_do_not_disturb_each_other(
    client: Client, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nets are used by one at a time."""
    translate, inside, most = translator.translate_many, [], []

    def watched(*arguments: Any) -> torch.Tensor:
        inside.append(0)
        most.append(len(inside))
        time.sleep(0.05)
        made = translate(*arguments)
        inside.pop()
        return made

    alone = [client.images(looks=[{"seed": seed}])[0] for seed in range(4)]
    monkeypatch.setattr(translator, "translate_many", watched)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: client.images(looks=[{"seed": seed}])[0], range(4)))
    assert found == alone and most == [1] * 4


def test_nothing_is_written(client: Client, opened_files: list[tuple[str, int]]) -> None:
    client.images(image={"file": png(torch.zeros(3, 700, 900))})
    written = [name for name, flags in opened_files if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)]
    assert written == []


def test_a_port_that_is_taken_is_named(client: Client) -> None:
    port = int(client.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose another"):
        server.serve([], port, print)
