from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from m2o_fast.data import fetch, open_dataset
from m2o_fast.data.fetch import content_problem, fetch_mnist
from m2o_fast.data.mnist import FILES, PUBLISHED, Published
from m2o_fast.errors import UserError

NAMES = [name for names in FILES.values() for name in names]


class Server:
    """A mirror on this machine; ``answers`` maps /folder/file to bytes, ``cut`` promises more than it sends."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = outer.answers.get(self.path)
                if body is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) * (2 if self.path in outer.cut else 1)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    tiny = {name: Published(len(data), hashlib.sha256(data).hexdigest()) for name, data in mnist_files.items()}
    monkeypatch.setattr(fetch, "PUBLISHED", tiny)
    running = Server()
    for name, data in mnist_files.items():
        running.answers[f"/good/{name}.gz"] = gzip.compress(data, mtime=0)
    thread = threading.Thread(target=running.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.http.shutdown()
    running.http.server_close()
    thread.join()


def test_fetched_files_can_be_opened(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = fetch_mnist(tmp_path / "new" / "folder", mirrors=[server.url + "good/"], report=lines.append)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    assert open_dataset("mnist", split="train", data_dir=folder).count("gray") == 12
    assert len(lines) == 4 and all(line.endswith("fetched") for line in lines)


def test_the_cache_is_the_default_place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("M2O_DATA_DIR", raising=False)
    assert fetch_mnist(mirrors=[server.url + "good/"]) == tmp_path / "m2o_fast" / "mnist"
    assert open_dataset("mnist", split="test").count("gray") == 5


def test_a_repeated_call_fetches_only_what_is_missing_or_damaged(
    server: Server, tmp_path: Path, write_mnist: Callable[..., Path]
) -> None:
    write_mnist(tmp_path, compressed=False)
    (tmp_path / NAMES[0]).write_bytes(b"damaged")
    (tmp_path / NAMES[3]).unlink()
    lines: list[str] = []
    fetch_mnist(tmp_path, mirrors=[server.url + "good/"], report=lines.append)
    assert server.asked == [f"/good/{NAMES[0]}.gz", f"/good/{NAMES[3]}.gz"]
    assert not (tmp_path / NAMES[0]).exists() and len(list(tmp_path.iterdir())) == 4
    assert sum("already there" in line for line in lines) == 2
    assert open_dataset("mnist", split="train", data_dir=tmp_path).count("gray") == 12
    fetch_mnist(tmp_path, mirrors=["http://127.0.0.1:9/"])  # everything is there: nobody is asked


def test_the_next_mirror_is_asked_when_one_fails(server: Server, tmp_path: Path) -> None:
    first = NAMES[0]
    good = server.answers[f"/good/{first}.gz"]
    server.answers |= {
        f"/wrong/{first}.gz": gzip.compress(b"something else"),
        f"/altered/{first}.gz": gzip.compress(gzip.decompress(good)[:-1] + b"?"),
        f"/html/{first}.gz": b"<html>please log in</html>",
        f"/short/{first}.gz": good[: len(good) // 2],
        f"/cut/{first}.gz": good[: len(good) // 2],
        f"/long/{first}.gz": bytes(20000),
    }
    server.cut.add(f"/cut/{first}.gz")
    mirrors = [
        server.url + f"{name}/" for name in ("absent", "wrong", "altered", "html", "short", "cut", "long", "good")
    ]
    folder = fetch_mnist(tmp_path, mirrors=mirrors)
    assert server.asked[:8] == [f"/{mirror.split('/')[-2]}/{first}.gz" for mirror in mirrors]
    assert content_problem(folder / f"{first}.gz", first) is None
    with pytest.raises(UserError) as error:
        fetch_mnist(tmp_path / "other", mirrors=mirrors[:-1])
    reasons = {
        "absent": "HTTP Error 404",
        "wrong": "14 bytes of content, the published file has 9424",
        "altered": "the content is not the published one",
        "html": "26 bytes of content",
        "short": "the gzip data is damaged",
        "cut": "the gzip data is damaged",
        "long": "the answer is longer than",
    }
    for name, reason in reasons.items():
        assert f"{server.url}{name}/{first}.gz: {reason}" in str(error.value)
    assert list((tmp_path / "other").iterdir()) == []  # nothing that could be taken for a file


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError) as error:
        fetch_mnist(tmp_path, mirrors=["http://127.0.0.1:9/mnist/"], timeout=5)
    for part in (f"http://127.0.0.1:9/mnist/{NAMES[0]}.gz", "refused", str(tmp_path), "--data-dir", "by hand"):
        assert part in str(error.value)


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file.*choose another folder"):
        fetch_mnist(tmp_path / "file" / "folder", mirrors=[server.url + "good/"])


def test_the_published_content_is_that_of_the_real_files(real_mnist: str) -> None:
    from m2o_fast.data.mnist import candidate_directories, find_file

    found = {name: find_file(folder, name) for folder in candidate_directories(real_mnist)[::-1] for name in NAMES}
    for folder in candidate_directories(real_mnist):
        found |= {name: path for name in NAMES if (path := find_file(folder, name))}
    assert set(found) == set(PUBLISHED)
    assert {name: content_problem(path, name) for name, path in found.items()} == dict.fromkeys(NAMES)
