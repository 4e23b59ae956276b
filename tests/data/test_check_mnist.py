from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from m2o_fast.data import fetch
from m2o_fast.data.check import check_folder
from m2o_fast.data.contact_sheet import DEFAULT_SHEET
from m2o_fast.data.mnist import Published
from m2o_fast.errors import UserError

Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def published(mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real_mnist" not in request.fixturenames:
        tiny = {name: Published(len(data), hashlib.sha256(data).hexdigest()) for name, data in mnist_files.items()}
        monkeypatch.setattr(fetch, "PUBLISHED", tiny)


@pytest.mark.parametrize("layout", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_whole_set_has_no_problem(tmp_path: Path, write_mnist: Writer, layout: str, compressed: bool) -> None:
    write_mnist(tmp_path / layout, compressed=compressed)
    report = check_folder(tmp_path)
    assert not report.problems and report.text()[-1] == "12 train, 5 test images, 0 problems"
    assert len(report.lines) == 4 and all(line.endswith("published content") for line in report.lines)


def test_a_sheet_that_was_asked_for_is_missed(tmp_path: Path, write_mnist: Writer) -> None:
    write_mnist(tmp_path, compressed=False)
    assert check_folder(tmp_path, sheet=tmp_path / "x.png").notes == [f"{tmp_path / 'x.png'}: nothing to draw"]
    assert check_folder(tmp_path, sheet=DEFAULT_SHEET).notes == ()


def test_other_content_is_one_problem_for_each_file(tmp_path: Path, write_mnist: Writer) -> None:
    path = write_mnist(tmp_path, compressed=False) / "train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    report = check_folder(tmp_path)
    assert report.text()[-1] == "12 train, 5 test images, 1 problem"
    assert report.problems[0].startswith(f"{path}: the content is not the published one")


def test_missing_and_unreadable_files_are_problems(tmp_path: Path, write_mnist: Writer) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    report = check_folder(tmp_path)
    assert report.text()[-1] == "0 train, 0 test images, 2 problems"
    assert str(path) in report.problems[0] and "ends too early" in report.problems[0]
    assert "t10k-labels-idx1-ubyte: missing" in report.problems[1]


def test_readable_but_wrong_files_are_one_problem(tmp_path: Path, write_mnist: Writer) -> None:
    path = write_mnist(tmp_path) / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes()))
    report = check_folder(tmp_path)
    assert report.text()[-1] == "12 train, 0 test images, 1 problem" and "magic number" in report.problems[0]


def test_an_unknown_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no data set recognised. Known are .*train-images-idx3-ubyte"):
        check_folder(tmp_path)
    with pytest.raises(UserError, match="absent: no such folder"):
        check_folder(tmp_path / "absent")


def test_the_real_set_has_no_problem(real_mnist: str) -> None:
    assert check_folder(real_mnist).text()[-1] == "60000 train, 10000 test images, 0 problems"
