"""Published models: the folder, and the hub, by a small server that speaks the few calls that are needed."""

from __future__ import annotations

import base64
import hashlib
import json
import resource
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small import small_config
from tiny import tiny_config, tiny_digits

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.engine.loop import train
from m2o_fast.engine.model_folder import CONFIG, WEIGHTS, is_model, write_model
from m2o_fast.engine.runs import fit_of
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.report.publish import publish
from m2o_fast.translators import NAMES, system

COMMIT = "a" * 40
DOMAINS = (Domain("color"), Domain("gray", channels=1, multimodal=False))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    translator = build_translator(small_config(["system=starganv2", "variant=hms"]), DOMAINS).eval()
    save_translator(translator, folder / "checkpoint")
    return publish(folder / "checkpoint", folder / "model", "mit")


class Hub:
    """Repositories in memory: name -> file -> bytes."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.address = ""
        self.asked: list[str] = []
        self.lengths: dict[str, int] = {}  # of files, in place of their own
        self.public: set[str] = set()

    def serve(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                parts = self.path.strip("/").split("/")
                hub.asked.append(f"{self.command} {self.path}")
                repository, file = "/".join(parts[:2]), parts[-1]
                if len(parts) == 5 and parts[2] == "resolve":
                    self._file(repository, parts[3], file)
                else:
                    name = "/".join(parts[2:4])
                    self._reply({"id": name, "sha": COMMIT, "siblings": [], "private": name not in hub.public})

            def do_POST(self) -> None:
                hub.asked.append(f"POST {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != "Bearer secret":
                    self._reply({"error": "Unauthorized"}, 401)
                elif self.path.endswith("/create"):
                    asked = json.loads(body)
                    assert asked.get("private") is True or asked["visibility"] == "private"  # as its version has it
                    name = f"{asked['organization']}/{asked['name']}"
                    is_there = name in hub.files
                    hub.files.setdefault(name, {})
                    self._reply({"url": f"{hub.address}/{name}"}, 409 if is_there else 200)
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    kinds = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                    self._reply({"files": kinds})
                elif "/commit/" in self.path:
                    repository = "/".join(self.path.split("/")[3:5])
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            value = line["value"]
                            hub.files[repository][value["path"]] = base64.b64decode(value["content"])
                    found = {"commitUrl": f"{hub.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT}
                    self._reply(found | {"success": True, "hookOutput": ""})
                else:
                    self._reply({"errors": [], "warnings": []})

            def _file(self, repository: str, revision: str, file: str) -> None:
                held = hub.files.get(repository)
                if held is None:
                    self._reply({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
                elif revision not in ("main", COMMIT):
                    self._reply({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
                elif file not in held:
                    self._reply({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
                else:
                    self._send(held[file], 200, hub.lengths.get(file, len(held[file])))

            def _reply(self, value: Any, status: int = 200, **headers: str) -> None:
                data = json.dumps(value).encode()
                self._send(data, status, len(data), {"Content-Type": "application/json", **headers})

            def _send(self, data: bytes, status: int, length: int, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                digest = hashlib.sha256(data).hexdigest()
                known = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Content-Length": str(length)}
                for name, value in (known | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants", reason="pip install 'm2o-fast[hub]'")
    hub = Hub()
    server = hub.serve()
    address = hub.address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", NAMES)
def test_every_system_is_published_and_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the example of its card runs."""
    variant = list(system(name).variants)[-1]
    translator = build_translator(small_config([f"system={name}", f"variant={variant}"]), DOMAINS).eval()
    save_translator(translator, tmp_path / "checkpoint")
    folder = publish(tmp_path / "checkpoint", tmp_path / "model", "cc-by-4.0")
    loaded = m2o_fast.load(folder, "cpu")
    assert not loaded.training and loaded.describe() == translator.describe()
    for key, tensor in translator.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    card = (folder / "README.md").read_text()
    assert 'license: "cc-by-4.0"\n' in card and "Not measured." in card and "converted" not in card
    assert f"tags: [image-to-image, many-to-one, {name}, {variant}]" in card
    run_example(folder, tmp_path, monkeypatch)


def run_example(model: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """What the example of a card makes, the folder in the place of the hub's name."""
    code = (model / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(place)
    Image.new("L", (32, 32), 3).save("image.png")  # gray, or a class
    exec(compile(code.replace(f"hf:ORG/{model.name}", str(model)), "card", "exec"), {})
    return Image.open("out.png")


def test_the_example_of_label_maps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have as many channels as classes; of several sources, one is named."""
    domains = (Domain("labels", channels=5, kind="onehot", multimodal=False), Domain("scene"), Domain("photo"))
    for number, some in enumerate([domains[:2], domains]):
        translator = build_translator(small_config(["system=starganv2", "variant=hms"]), some).eval()
        save_translator(translator, tmp_path / f"checkpoint-{number}")
        folder = publish(tmp_path / f"checkpoint-{number}", tmp_path / f"model-{number}", "mit")
        with monkeypatch.context() as patch:
            assert run_example(folder, tmp_path, patch).size == (32, 32)
        assert ('source="' in (folder / "README.md").read_text()) == (number == 1)


@pytest.mark.parametrize("name", NAMES)
def test_rules_tell_the_variant(name: str) -> None:
    for variant in system(name).variants:
        config = small_config([f"system={name}", f"variant={variant}"])
        assert system(name).variant_of(config.rules) == variant
    assert system(name).variant_of(ManyToOne(zero_style=False)) is None


def test_converted_weights_are_said_to_be(tmp_path: Path) -> None:
    domains = tuple(Domain(name) for name in "ab")
    translator = build_translator(small_config(["system=cyclegan", "variant=plain"]), domains).eval()
    save_translator(translator, tmp_path / "run")
    files = {path.stem.partition("net_")[2]: path for path in write_published(tmp_path / "run", tmp_path / "official")}
    convert_checkpoint("cyclegan", files, tmp_path / "back")
    card = (publish(tmp_path / "back", tmp_path / "model", "mit") / "README.md").read_text()
    assert "converted from published ones of layout cyclegan" in card and "steps" not in card
    assert "- The weights were converted from elsewhere" in card


def test_a_run_is_published_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "data.fit=pad"), tmp_path / "run")
    report = {"format": 1, "step": 8, "protocol": {"sources": 6}}
    report["directions"] = {"color->gray": {"none": {"mse": 0.25}}, "gray->color": {"latent": {"color_recall": 0.5}}}
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "step-00000008.json").write_text(json.dumps(report))
    words = ["publish", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--license", "mit"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("model: README.md, config.json, model.safetensors, samples.png\n")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| color \N{RIGHTWARDS ARROW} gray | 0.25 |" in card and "| gray \N{RIGHTWARDS ARROW} color | 0.5 |" in card
    assert "Protocol: sources 6." in card and "8 steps" in card and "![" in card
    assert fit_of(tmp_path / "model") == "pad"
    averaged = m2o_fast.load(tmp_path / "run", "cpu").state_dict()
    assert all(map(torch.equal, m2o_fast.load(tmp_path / "model", "cpu").state_dict().values(), averaged.values()))
    assert main(words) == 2
    assert "model exists already" in capsys.readouterr().err


def test_picture_and_numbers_are_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the newest one; a checkpoint that was copied out of its run has neither."""
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    run = tmp_path / "run"
    train(tiny_config("variant=hmu"), run)
    (run / "evaluation").mkdir()
    for step in (4, 8):
        report = {"format": 1, "step": step, "directions": {"color->gray": {"none": {"mse": step / 100}}}}
        (run / "evaluation" / f"step-{step:08d}.json").write_text(json.dumps(report))
    shutil.copytree(run / "checkpoints" / "step-00000004", tmp_path / "alone")
    for step in (4, 6, 8):
        folder = publish(run, tmp_path / f"model-{step}", "mit", f"step-{step:08d}")
        card, picture = (folder / "README.md").read_text(), folder / "samples.png"
        assert "# HMU: " in card and f"{step} steps" in card
        assert ("Not measured." in card) == (step == 6) and (f"| 0.0{step} |" in card) == (step != 6)
        assert picture.is_file() == ("![" in card) == (step != 6)
        if step != 6:
            assert picture.read_bytes() == (run / "samples" / f"step-{step:08d}.png").read_bytes()
    card = (publish(tmp_path / "alone", tmp_path / "model", "mit") / "README.md").read_text()
    assert "# HMU: " in card and "4 steps" in card and "Not measured." in card and "![" not in card
    assert "converted" not in card


def test_there_and_back(hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is uploaded is what was written; of it two files are fetched, once, and both from one commit."""
    words = ["publish", str(model.parent / "checkpoint"), "--out", str(tmp_path / "again"), "--license", "mit"]
    assert main([*words, "--push", "some/digits"]) == 0
    assert "closed to others" in capsys.readouterr().out
    assert hub.files["some/digits"] == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert 'm2o_fast.translate("hf:some/digits", "image.png", to=' in hub.files["some/digits"]["README.md"].decode()
    hub.asked.clear()
    loaded = m2o_fast.load("hf:some/digits", "cpu")
    assert all(map(torch.equal, loaded.state_dict().values(), m2o_fast.load(model, "cpu").state_dict().values()))
    assert {line.rpartition("/")[2] for line in hub.asked} == {"config.json", "model.safetensors"}
    assert len([line for line in hub.asked if line.startswith("GET")]) == 2
    assert all(f"/{COMMIT}/" in line for line in hub.asked if "model.safetensors" in line)
    assert m2o_fast.load("hf:some/digits", "cpu", revision=COMMIT).image_size == 32


def test_what_is_uploaded_and_how_open_it_is(
    hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A written folder goes as it lies, its card as it was read; a repository that is there stays open."""
    hub.files, hub.public = {"some/open": {}}, {"some/open"}
    folder = tmp_path / "read"
    shutil.copytree(model, folder)
    (folder / "README.md").write_text("read")
    assert main(["publish", str(folder), "--push", "some/open"]) == 0
    assert capsys.readouterr().out == f"uploaded to {hub.address}/some/open, which is open to everybody\n"
    assert hub.files["some/open"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    for words in (["--license", "mit", "--push", "some/open"], []):
        assert main(["publish", str(folder), *words]) == 2
        assert "is a published model already; --push ORG/NAME alone" in capsys.readouterr().err
    assert main(["publish", str(model.parent / "checkpoint"), "--push", "some/open"]) == 2
    assert "say with --out which folder to write" in capsys.readouterr().err


def test_a_failed_upload_says_how_to_go_on(
    hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    out = tmp_path / "my model"
    words = ["publish", str(model.parent / "checkpoint"), "--out", str(out), "--license", "mit", "--push", "some/x"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"try again with: m2o-fast publish '{out}' --push some/x" in error.replace("\n", " ")
    assert is_model(out)


def test_the_hub_is_asked_once_and_not_needed_again(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {"some/model": {path.name: path.read_bytes() for path in model.iterdir()}}
    Image.new("L", (32, 32), 9).save(tmp_path / "in.png")
    words = ["translate", str(tmp_path / "in.png"), "--run", "hf:some/model", "--to", "color"]

    def asked() -> list[str]:
        assert main([*words, "--out", str(tmp_path / "out.png")]) == 0
        lines, hub.asked = [line for line in hub.asked if line.endswith("/config.json")], []
        return lines

    m2o_fast.load("hf:some/model", "cpu")
    once, hub.asked = [line for line in hub.asked if line.endswith("/config.json")], []
    assert len(asked()) <= len(once)
    m2o_fast.translate("hf:some/model", tmp_path / "in.png", to="color").save(tmp_path / "made.png")
    assert len([line for line in hub.asked if line.endswith("/config.json")]) <= len(once)
    assert (tmp_path / "made.png").read_bytes()
    hub.asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.warns(RuntimeWarning, match=f"cannot be reached; taking commit {COMMIT[:12]}, fetched before"):
        assert m2o_fast.load("hf:some/model", "cpu").image_size == 32
    with pytest.warns(RuntimeWarning, match="hf:some/model@main: the hub cannot be reached"):
        assert m2o_fast.load("hf:some/model@main", "cpu").image_size == 32
    with pytest.raises(UserError, match="hf:some/other: the hub cannot be reached"):
        m2o_fast.load("hf:some/other", "cpu")
    assert hub.asked == []


def test_nothing_goes_online_by_a_typo(hub: Hub, model: Path, tmp_path: Path) -> None:
    words = ["publish", str(model.parent / "checkpoint"), "--out", str(tmp_path / "m"), "--license", "mit", "--push"]
    for name in ("digits", "../x/y", "a/b/c", "http://x/y", "a/..", ""):
        assert main([*words, name]) == 2
    assert hub.asked == [] and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:some/none", "hf:some/none: no such repository, or one that is closed to you"),
        ("hf:some/model@v9", "hf:some/model: no such revision"),
        ("hf:some/other", "hf:some/other: no model of m2o_fast: a file is missing"),
        ("hf:none", "'none' is no name of a repository"),
        ("hf:../../etc", "is no name of a repository"),
    ],
)
def test_what_is_not_there_is_named(hub: Hub, model: Path, name: str, message: str) -> None:
    hub.files = {"some/model": {path.name: path.read_bytes() for path in model.iterdir()}, "some/other": {"x": b""}}
    with pytest.raises(UserError, match=message):
        m2o_fast.load(name, "cpu")


def test_sizes_are_looked_at_first(hub: Hub, model: Path) -> None:
    hub.files = {"some/model": {path.name: path.read_bytes() for path in model.iterdir()}}
    hub.lengths = {"model.safetensors": 1 << 40}
    with pytest.raises(UserError, match="model.safetensors has 1099511627776 bytes, and at most"):
        m2o_fast.load("hf:some/model", "cpu")
    assert not [line for line in hub.asked if line.startswith("GET") and "safetensors" in line]
    hub.lengths = {"config.json": 1 << 30}
    with pytest.raises(UserError, match="config.json has 1073741824 bytes, and at most 1,048,576"):
        m2o_fast.load("hf:some/model", "cpu")


def test_no_connection_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its attempts
    with pytest.raises(UserError, match="hf:some/model: the hub cannot be reached, or refuses: "):
        m2o_fast.load("hf:some/model", "cpu")


def broken(model: Path, to: Path, change: Any) -> Path:
    to.mkdir()
    for path in model.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    change(to)
    return to


def edited(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def gigantic(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["translator"]["size"]["hidden_dim"] = 10**6
    (folder / "config.json").write_text(json.dumps(config))


def longer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"more": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(library_name="diffusers"), "config.json: not of a model of m2o_fast"),
        (edited(format=2), "config.json: format 2 is not supported"),
        (edited(fit="twist"), "config.json is damaged: 'fit' must be one of"),
        (edited(translator={"system": "none"}), "config.json: unknown system 'none'"),
        (edited(translator=[]), "config.json is damaged: .*'translator' an object"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors cannot be read"),
        (longer, "model.safetensors does not fit the nets"),
        (gigantic, "model.safetensors does not fit the nets"),
    ],
)
def test_damaged_folders_are_refused(model: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        m2o_fast.load(broken(model, tmp_path / "broken", change), "cpu")


def test_licence_and_other_options_are_looked_at(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="licence 'a\\\\nb': give its name"):
        publish(model.parent / "checkpoint", tmp_path / "m", "a\nb")
    for truth in ("1e3", "\u00e9", "A"):
        with pytest.raises(UserError, match="give its name as the hub has it"):
            publish(model.parent / "checkpoint", tmp_path / "m", truth)
    assert 'license: "no"\n' in (publish(model.parent / "checkpoint", tmp_path / 'a"b', "no") / "README.md").read_text()
    assert "hf:ORG/NAME" in (tmp_path / 'a"b' / "README.md").read_text()
    with pytest.raises(UserError, match="only a model on the hub has revisions"):
        m2o_fast.load(model, "cpu", revision="main")
    with pytest.raises(UserError, match="a published model, without other checkpoints"):
        m2o_fast.load(model, "cpu", "best")


def test_a_sample_grid_that_is_no_image_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "steps=4"), tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run" / "samples" / "step-00000004.png").unlink()
    (tmp_path / "run" / "samples" / "step-00000004.png").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="step-00000004.png: not an image"):
        publish(tmp_path / "run", tmp_path / "model", "mit")
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    translator = build_translator(small_config(["system=starganv2", "variant=hms"]), DOMAINS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, name in ((100, CONFIG), (8000, WEIGHTS)):  # bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(UserError, match=rf"{name}: cannot be written \(.*[Ff]ile too large"):
                write_model(translator, tmp_path, {"fit": "stretch"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
