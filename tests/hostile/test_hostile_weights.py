"""Door: files of published weights, to convert and to extract features with."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from no_files import KINDS, put_no_file

NAME = "bad.ckpt"
LAYOUTS = ("stargan-v2",)


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def torch_file(value: Any, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def nested_keys(depth: int) -> bytes:
    """A pickle of a dict whose key is a tuple of tuples: hashing it takes 2^depth steps."""
    doubled = b"".join(b"h" + bytes([n, ord("h"), n]) + b"\x86q" + bytes([n + 1]) for n in range(depth))
    return b"\x80\x02})q\0" + doubled + b"K\x01s."


SMALL = {"weight": torch.zeros(2)}
WHOLE = torch_file({"generator": SMALL})
FILES: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "text": b"no weights",
    "HTML": b"<!DOCTYPE html><title>404</title>",
    "a pickle with code": pickle.dumps(Evil()),
    "a pickle of protocol 0 with code": pickle.dumps(Evil(), protocol=0),
    "torch with code": torch_file({"generator": Evil()}),
    "old torch with code": torch_file({"generator": Evil()}, _use_new_zipfile_serialization=False),
    "a whole net": torch_file(torch.nn.Linear(1, 1)),
    "a pickle of nested tuples": nested_keys(60),
    "torch of nested tuples": zipped({"a/data.pkl": nested_keys(60), "a/version": b"3", "a/byteorder": b"little"}),
    "a pickle of marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "a pickle of a gigantic text": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
    "a pickle of a gigantic number": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a pickle without an end": b"\x80\x02}q\0",
    "cut off": WHOLE[: len(WHOLE) // 2],
    "one byte wrong": WHOLE[:200] + bytes([WHOLE[200] ^ 255]) + WHOLE[201:],
    "an empty zip": zipped({}),
    "a zip of text": zipped({"readme": b"x"}),
    "a zip that inflates": cache(lambda: zipped({"a/data.pkl": bytes(1 << 30), "a/version": b"3"})),  # takes seconds
    "a zip of many files": zipped({f"a/{n}": b"" for n in range(10_000)}),
    "a zip that leads outside": zipped({"../../owned": b"x", "a/data.pkl": b"\x80\x02}."}),
    "a TorchScript": zipped({"a/code/x.py": b"import os", "a/constants.pkl": b"\x80\x02)."}),
    "a list": torch_file([1, 2]),
    "a number": torch_file(7),
    "nothing": torch_file(None),
    "a tensor": torch_file(torch.zeros(3)),
    "an empty dict": torch_file({}),
    "keys that are numbers": torch_file({1: SMALL}),
    "keys that are tuples": torch_file({((1, 2), 3): SMALL}),
    "nets that are numbers": torch_file({"generator": 1, "mapping_network": 2, "style_encoder": 3}),
    "nets that are empty": torch_file({"generator": {}, "mapping_network": {}, "style_encoder": {}}),
    "nets of one tensor": torch_file({"generator": SMALL, "mapping_network": SMALL, "style_encoder": SMALL}),
    "nets too few": torch_file({"generator": SMALL}),
    "names of control characters": torch_file({"\x1b[2J": SMALL}),
    "a name of a million letters": torch_file({"x" * 1_000_000: SMALL}),
    "a head of a gigantic number": torch_file(
        {
            "generator": {"from_rgb.weight": torch.zeros(4, 3, 3, 3)},
            "mapping_network": SMALL,
            "style_encoder": {
                "shared.1.conv1.weight": torch.zeros(1), f"unshared.{10**12}.weight": torch.zeros(1)
            },
        }
    ),
    "a tensor of gigabytes that are not there": torch_file(
        {"generator": {"from_rgb.weight": torch.zeros(1).expand(1 << 15, 1 << 15, 3, 3)}, "mapping_network": SMALL,
         "style_encoder": SMALL}
    ),
}  # fmt: skip


def put(kind: str, path: Path) -> None:
    content = FILES[kind]
    path.write_bytes(content() if callable(content) else content)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files(kind: str, layout: str, tmp_path: Path, refuses) -> None:
    put(kind, tmp_path / NAME)
    refuses("convert", layout, NAME, "--out", "out", names=NAME)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_files(kind: str, layout: str, tmp_path: Path, refuses) -> None:
    put_no_file(kind, tmp_path / NAME)
    refuses("convert", layout, NAME, "--out", "out", names=NAME)


EXTRACTED = [
    "empty", "text", "a pickle with code", "torch with code", "a whole net", "a pickle of nested tuples", "cut off",
    "a zip that inflates", "a list", "an empty dict", "keys that are numbers", "nets too few",
]  # fmt: skip


@pytest.mark.parametrize("kind", EXTRACTED)
def test_weights_of_an_extractor(kind: str, tmp_path: Path, picture: Path, refuses) -> None:
    for folder in ("fakes", "reals"):
        (tmp_path / folder).mkdir()
        os.link(picture, tmp_path / folder / "a.png")
    put(kind, tmp_path / NAME)
    refuses("eval", "fakes", "--real", "reals", "--extractor", f"inception:{NAME}", "--quiet", names=NAME)
    assert not (tmp_path / "owned").exists()


# --- published weights of a file for each net ---

KERNEL = torch.zeros(4, 3, 4, 4)
U_NET = {
    "model.model.0.weight": KERNEL,
    "model.model.1.model.1.weight": torch.zeros(8, 4, 4, 4),
    "model.model.1.model.3.weight": torch.zeros(8, 4, 4, 4),
    "model.model.3.weight": torch.zeros(8, 3, 4, 4),
    "model.model.3.bias": torch.zeros(3),
}
RES_NET = {
    "model.1.weight": torch.zeros(4, 3, 7, 7),
    "model.10.conv_block.1.weight": torch.zeros(16, 16, 3, 3),
    "model.18.weight": torch.zeros(3, 4, 7, 7),
}
JUDGE = {"model.0.weight": torch.zeros(4, 6, 4, 4), "model.2.weight": torch.zeros(8, 4, 4, 4)}
REFINER = {
    "stem.weight": torch.zeros(4, 3, 3, 3),
    "head.weight": torch.zeros(3, 4, 1, 1),
    "blocks.0.conv1.weight": torch.zeros(4, 4, 3, 3),
}
STYLED_U_NET = {
    "model.down.0.weight": torch.zeros(4, 5, 4, 4),
    "model.submodule.down.1.weight": torch.zeros(8, 6, 4, 4),
    "model.submodule.up.1.weight": torch.zeros(8, 4, 4, 4),
    "model.up.1.weight": torch.zeros(8, 3, 4, 4),
}
STARGAN = {
    "main.0.weight": torch.zeros(4, 5, 7, 7),
    "main.1.weight": torch.zeros(4),
    "main.9.main.0.weight": torch.zeros(16, 16, 3, 3),
    "main.16.weight": torch.zeros(3, 4, 7, 7),
}
NETS = {("pix2pix", "G"): U_NET, ("cyclegan", "G_A"): RES_NET, ("pix2pix", "D"): JUDGE, ("cyclegan", "D_B"): JUDGE}
NETS |= {("simgan", "R"): REFINER}
STEM = torch.zeros(4, 3, 7, 7)
CONTENT = {"enc_content.model.0.conv.weight": STEM, "enc_style.model.6.weight": torch.zeros(8, 16, 1, 1)}
LATENT = {"enc.model.0.conv.weight": STEM, "enc.model.3.model.0.model.0.conv.weight": torch.zeros(16, 16, 3, 3)}
BOTH = {f"encode_{letter}.0.model.0.weight": STEM for letter in "AB"} | {
    "enc_shared.0.model.3.weight": torch.zeros(16, 16, 3, 3)
}
DEEP = {"model_A.0.model.0.weight": STEM, "model_S.0.model.0.weight": torch.zeros(8, 4, 3, 3)}
SHOWN = {"convs.0.weight": torch.zeros(12, 3, 3, 3), "head.weight": torch.zeros(2, 4, 1, 1)}
NETS |= {("munit", "gen_a"): CONTENT, ("unit", "gen_a"): LATENT, ("unit", "gen"): BOTH, ("unit", "dis"): DEEP}
NETS |= {("simgan", "D"): SHOWN, ("bicyclegan", "G"): STYLED_U_NET}
KERNELS = torch.zeros(4, 4, 3, 3)
VELOCITY = {f"heads.{k}.weight": torch.zeros(3, 4, 3, 3) for k in range(2)} | {
    "conditions.0.weight": torch.zeros(4, 3, 3, 3), "noises.0.weight": torch.zeros(4, 3, 3, 3),
    "down.0.conv1.weight": KERNELS, "down.1.conv.weight": KERNELS, "down.2.conv1.weight": KERNELS,
}  # fmt: skip
NETS |= {("flow", "V"): VELOCITY}
NETS |= {("stargan", "G"): STARGAN}
TINY = torch.zeros(1, 1, 1, 1)
COUNTED = (
    "model.{}.conv_block.1.weight", "model.{}.weight", "blocks.{}.conv1.weight", "cnns.0.{}.conv.weight",
    "cnns.{}.0.conv.weight", "enc_content.model.3.model.{}.model.0.conv.weight", "enc_shared.{}.model.3.weight",
    "enc.model.3.model.{}.model.0.conv.weight", "encode_A.{}.model.3.weight", "model_A.{}.model.0.weight",
    "model_S.{}.model.0.weight", "model_{}.0.weight", "model_0.{}.weight", "conv.{}.conv.2.weight",
    "main.{}.main.0.weight", "main.{}.weight",
)  # fmt: skip


def widened(weight: torch.Tensor) -> torch.Tensor:
    """With 20,000 channels where it has 4, once."""
    shape = list(weight.shape)
    if 4 in shape[:2]:
        shape[shape.index(4)] = 20_000
    return weight.new_zeros(shape)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no weights": lambda net: {},
    "other weights": lambda net: SMALL,
    "weights in a dict of their own": lambda net: {"state_dict": net},
    "a whole net": lambda net: torch.nn.Linear(1, 1),
    "a list": lambda net: list(net.values()),
    "numbers": lambda net: dict.fromkeys(net, 1),
    "texts": lambda net: dict.fromkeys(net, "x"),
    "keys that are numbers": lambda net: dict(enumerate(net.values())),
    "keys that are tuples": lambda net: {(key,): value for key, value in net.items()},
    "scalars": lambda net: {key: torch.tensor(1.0) for key in net},
    "vectors": lambda net: {key: value.flatten() for key, value in net.items()},
    "empty tensors": lambda net: {key: value[:0] for key, value in net.items()},
    "no channels": lambda net: {key: value[:, :0] if value.dim() == 4 else value for key, value in net.items()},
    "whole numbers": lambda net: {key: value.to(torch.int32) for key, value in net.items()},
    "complex numbers": lambda net: {key: value.to(torch.complex64) for key, value in net.items()},
    "sparse tensors": lambda net: {key: value.to_sparse() for key, value in net.items()},
    "tensors of gigabytes that are not there": lambda net: {
        key: torch.zeros(1).expand(1 << 16, 1 << 16, 4, 4) for key in net
    },
    "layers of a gigantic number": lambda net: net | {
        re.sub(r"\.\d+\.", f".{10**12}.", key, count=1): value for key, value in net.items()
    },
    "a name of control characters": lambda net: {**net, "\x1b[2J": KERNEL},
    "a name of a million letters": lambda net: {**net, "x" * 1_000_000: KERNEL},
    "ten thousand names": lambda net: {**net, **{f"model.{n}.conv_block.1.weight": KERNEL for n in range(10_000)}},
    "20,000 channels": lambda net: {key: widened(value) for key, value in net.items()},
    "numbers of tiny layers": lambda net: {
        **{name.format(n): TINY for n in range(60) for name in COUNTED},
        **net,
    },
    "the first weight alone": lambda net: dict([next(iter(net.items()))]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize(
    ("layout", "net"),
    [pytest.param(*key, marks=[pytest.mark.slow] if net is JUDGE else []) for key, net in NETS.items()],
)
def test_a_file_for_each_net(layout: str, net: str, kind: str, tmp_path: Path, refuses) -> None:
    torch.save(CHANGES[kind](NETS[layout, net]), tmp_path / NAME)
    more = [f"gen_b={NAME}"] if net == "gen_a" else []  # nets without which a layout has no translator
    if net == "dis":
        torch.save(BOTH, tmp_path / "gen.pt")
        more = ["gen=gen.pt"]
    refuses("convert", layout, f"{net}={NAME}", *more, "--out", "out", names=NAME)


@pytest.mark.parametrize("kind", [kind for kind in EXTRACTED if kind != "keys that are numbers"])
@pytest.mark.parametrize(("layout", "net"), [("pix2pix", "G"), ("cyclegan", "D_A")])
def test_files_of_a_net(layout: str, net: str, kind: str, tmp_path: Path, refuses) -> None:
    put(kind, tmp_path / NAME)
    refuses("convert", layout, f"{net}={NAME}", "--out", "out", names=NAME)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_net(kind: str, tmp_path: Path, refuses) -> None:
    put_no_file(kind, tmp_path / NAME)
    refuses("convert", "cyclegan", f"G_A={NAME}", "--out", "out", names=NAME)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["pix2pix", f"Q={NAME}"], "Q"),
        (["pix2pix", f"G_A={NAME}"], "G_A"),
        (["cyclegan", f"G_A={NAME}", f"G_A={NAME}"], "G_A"),
        (["cyclegan", f"G_A={NAME}", NAME], NAME),
        (["cyclegan", f"={NAME}", f"G_A={NAME}"], NAME),
        (["cyclegan", "G_A=", f"G_B={NAME}"], "G_A="),
        (["starganv2", f"G_A={NAME}"], "G_A"),
        (["cyclegan", f"\x1b[2J={NAME}"], NAME),
        (["pix2pix", f"G={NAME}", "--image-size", str(2**40)], "image-size"),
    ],
)
def test_nets_that_a_layout_has_not(words: list[str], names: str, tmp_path: Path, refuses) -> None:
    torch.save(U_NET, tmp_path / NAME)
    refuses("convert", *words, "--out", "out", names=names)
