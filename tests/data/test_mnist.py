from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from m2o_fast.data import open_dataset
from m2o_fast.data.idx import read_idx
from m2o_fast.data.mnist import load_mnist
from m2o_fast.errors import UserError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "real_mnist" not in request.fixturenames:
        monkeypatch.delenv("M2O_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_every_layout_is_read_plain_and_compressed(
    tmp_path: Path, write_mnist: Writer, mnist_files: dict[str, bytes], layout: str, compressed: bool
) -> None:
    write_mnist(tmp_path / layout, compressed=compressed)
    images, labels = load_mnist("train", 32, tmp_path)
    raw = np.frombuffer(mnist_files[IMAGES], np.uint8, offset=16).reshape(12, 1, 28, 28)
    assert images.shape == (12, 1, 32, 32) and images.dtype == torch.uint8
    assert np.array_equal(images[:, :, 2:-2, 2:-2].numpy(), raw)
    assert images.sum(dtype=torch.int64) == raw.sum(dtype=np.int64)  # the border is black
    assert labels.dtype == torch.int64 and labels.tolist() == [*range(10), 0, 1]
    assert len(load_mnist("test", 32, tmp_path)[0]) == 5


def test_folder_option_variable_and_cache_in_this_order(
    tmp_path: Path, write_mnist: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "cache" / "m2o_fast" / "mnist")
    assert open_dataset("mnist", split="test").count("gray") == 5
    monkeypatch.setenv("M2O_DATA_DIR", str(tmp_path / "named"))
    assert open_dataset("mnist", split="test").count("gray") == 5  # nothing there: what was fetched is found
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / f"{LABELS}.gz").write_bytes(b"not a file of MNIST")
    with pytest.raises(UserError, match="named"):  # something there: it is meant, not the cache
        open_dataset("mnist", split="train")
    write_mnist(tmp_path / "given")
    assert open_dataset("mnist", split="test", data_dir=tmp_path / "given").count("gray") == 5
    with pytest.raises(UserError, match="elsewhere"):  # an option is never passed over
        open_dataset("mnist", split="test", data_dir=tmp_path / "elsewhere")


def test_missing_files_say_where_they_were_looked_for_and_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_mnist("train", 32, tmp_path)
    for part in (f"{tmp_path}, ", str(tmp_path / "MNIST" / "raw"), "m2o-fast data fetch mnist", "--data-dir", IMAGES):
        assert part in str(error.value)
    with pytest.raises(UserError, match="cache/m2o_fast/mnist"):
        load_mnist("train", 32)


def test_a_missing_half_is_named(tmp_path: Path, write_mnist: Writer) -> None:
    write_mnist(tmp_path)
    (tmp_path / f"{LABELS}.gz").unlink()
    with pytest.raises(UserError, match=f"not complete in .*{LABELS} .*is missing"):
        load_mnist("train", 32, tmp_path)


def test_larger_sizes_show_the_same_digits(tmp_path: Path, write_mnist: Writer) -> None:
    write_mnist(tmp_path)
    small, large = load_mnist("test", 32, tmp_path)[0], load_mnist("test", 64, tmp_path)[0]
    assert large.shape == (5, 1, 64, 64) and large.dtype == torch.uint8
    wanted = torch.nn.functional.interpolate(small.float(), scale_factor=2, mode="bilinear").round().byte()
    assert torch.equal(large, wanted)
    with pytest.raises(UserError, match="at least 32, got 16"):
        open_dataset("mnist", split="test", data_dir=tmp_path, image_size=16)


def header(*sizes: int, magic: int | None = None) -> bytes:
    return struct.pack(f">{len(sizes) + 1}I", 0x800 + len(sizes) if magic is None else magic, *sizes)


DAMAGED = {
    "labels in place of images": (header(12) + bytes(12), "magic number is 2049 .*expected 2051"),
    "floats": (header(2, 28, 28, magic=0xD03), "magic number is 3331"),
    "another size": (header(2, 30, 28) + bytes(1680), "the array is 2 x 30 x 28, expected any x 28 x 28"),
    "no bytes": (b"", "ends within its header: 0 bytes, expected 16"),
    "half a header": (header(2, 28), "magic number is 2050"),
    "cut header": (header(2, 28, 28)[:14], "ends within its header: 14 bytes, expected 16"),
    "cut data": (header(2, 28, 28) + bytes(1000), "announces 1568 bytes of data, but found 1000"),
    "more data": (header(2, 28, 28) + bytes(1569), "announces 1568 bytes of data, but more follow"),
    "absurd count": (
        header(2**32 - 1, 28, 28) + bytes(9),
        "announces 3367254359280 bytes of data, more than 2147483648",
    ),
    "no image": (header(0, 28, 28), "holds no image"),
    "too few labels": (header(11, 28, 28) + bytes(11 * 784), "holds 11 images, but .* holds 12 labels"),
    "text": (b"<html>404 not found</html>", "magic number is 1013478509"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_described(tmp_path: Path, write_mnist: Writer, case: str, compressed: bool) -> None:
    content, message = DAMAGED[case]
    write_mnist(tmp_path)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)  # the name does not decide, the content does
    with pytest.raises(UserError, match=message) as error:
        load_mnist("train", 32, tmp_path)
    assert str(path) in str(error.value)


def test_damaged_gzip_data_is_described(tmp_path: Path, write_mnist: Writer) -> None:
    path = write_mnist(tmp_path) / f"{IMAGES}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="ends too early; fetch"):
        load_mnist("train", 32, tmp_path)
    for place in (12, len(whole) // 2, len(whole) - 6):  # block header, body, checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(UserError, match="fetch the file again"):
            load_mnist("train", 32, tmp_path)


def test_labels_beyond_nine_are_refused(tmp_path: Path, write_mnist: Writer) -> None:
    (write_mnist(tmp_path) / f"{LABELS}.gz").write_bytes(header(12) + bytes([10] * 12))
    with pytest.raises(UserError, match="labels must be 0 to 9, found 10"):
        load_mnist("train", 32, tmp_path)


def test_an_idx_array_comes_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "array"
    path.write_bytes(header(2, 3, 4) + array.tobytes())
    assert np.array_equal(read_idx(path, (None, 3, None)), array)


def test_the_real_set_is_what_it_should_be(real_mnist: str) -> None:
    dataset = open_dataset("mnist", split="train", data_dir=real_mnist)
    assert dataset.count("color") == 60000 and dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    chunks = torch.arange(60000).split(6000)
    mean = sum(float(dataset.content(chunk)[:, :, 2:-2, 2:-2].mean()) for chunk in chunks) / len(chunks)
    assert mean == pytest.approx(0.1307, abs=1e-4)  # the well-known mean of the training pixels
    assert open_dataset("mnist", split="test", data_dir=real_mnist).count("gray") == 10000
