"""Models on the hub, by a small server on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, Hub
from PIL import Image
from published import published_model

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.model_folder import is_model
from m2o_fast.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_model(tmp_path_factory.mktemp("published"))


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
    for folder in (model.parent / "checkpoint", tmp_path / "mistyped"):
        assert main(["publish", str(folder), "--push", "some/open"]) == 2
        said = capsys.readouterr().err
        assert f"{folder} is no published model to upload: say with --out which folder to write" in said


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
