"""Extractors: how images reach the net, which net it is, and what a report says of it."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from m2o_fast.errors import UserError
from m2o_fast.metrics import features, open_extractor
from m2o_fast.metrics.digits_cnn import DigitsSource
from m2o_fast.metrics.features import Extractor, prepare


def images_of(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def mean_color(images):
    return images.mean((2, 3))


def extractor(**settings):
    return Extractor(**{"net": mean_color, "name": "mean", "sha256": "00", "input_size": None} | settings)


# --- how images reach the net ---


@pytest.mark.parametrize("size", [75, 40, 16])
def test_clean_is_pillow_per_channel_in_floating_point(size):
    images = images_of(2, 3, 40, 40)
    found = prepare(images, size, "clean")
    for image, result in zip(images, found, strict=True):
        for channel, expected in zip(image, result, strict=True):
            plain = Image.fromarray(channel.numpy() * 255).resize((size, size), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(plain).clip(0, 255) / 255 - expected.numpy()).max() < 1e-5
    assert size == 40 or len(found.unique()) > 300  # not rounded


@pytest.mark.parametrize("shape", [(40, 40), (32, 32), (256, 256), (17, 301)])
@pytest.mark.parametrize("size", [299, 75, 40, 32, 16])
def test_stargan2_is_pillow_on_8_bits_to_the_last_bit(size, shape):
    images = images_of(2, 3, *shape)
    pixels = (images * 255 + 0.5).byte()
    for image, result in zip(pixels, prepare(images, size, "stargan2"), strict=True):
        plain = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(plain).transpose(2, 0, 1).astype(np.float32) / 255, result.numpy())


def test_an_average_of_stripes_does_not_depend_on_where_they_begin():
    """What antialiasing is for: without it, every fourth column alone would be seen."""
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::4] = 1
    for protocol in features.PROTOCOLS:
        small = prepare(stripes, 16, protocol)[..., 4:-4]
        assert torch.allclose(small, torch.full_like(small, 0.25), atol=0.03)


def test_values_outside_are_cut_and_gray_is_repeated():
    assert extractor(protocol="stargan2")(torch.full((1, 1, 4, 4), 1.5)).tolist() == [[1, 1, 1]]
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert prepare(edge, 32, "clean").min() == 0 and prepare(edge, 32, "clean").max() == 1
    found = extractor()(torch.full((2, 1, 4, 4), 0.25, dtype=torch.float64))
    assert found.dtype == torch.float32 and found.tolist() == [[0.25] * 3] * 2


def test_batches_do_not_matter_and_nothing_has_a_gradient():
    images = images_of(5, 3, 20, 20).requires_grad_()
    for protocol in features.PROTOCOLS:
        net = extractor(input_size=32, protocol=protocol)
        whole = net(images)
        assert torch.allclose(torch.cat([net(part) for part in images.split(2)]), whole, atol=1e-6)
        assert not whole.requires_grad


# --- what a report says ---


def test_describe_says_all_that_numbers_depend_on():
    found = extractor(input_size=32).describe()
    assert (
        json.loads(json.dumps(found))
        == found
        == {
            "extractor": "mean",
            "extractor_sha256": "00",
            "extractor_protocol": "clean",
            "resize": "bicubic to 32x32",
            "antialias": True,
            "rounding": "none",
            "features": 3,
            "comparable": features.ALONE,
        }
    )
    other = extractor(input_size=299, protocol="stargan2").describe()
    assert (other["resize"], other["rounding"]) == ("bilinear to 299x299", "8 bits")
    assert extractor().describe()["resize"] == "none"


# --- which net ---


class Halves(torch.nn.Module):
    """Six features: mean colours of the upper and the lower half."""

    input_size: int

    def __init__(self):
        super().__init__()
        self.input_size = 16

    def forward(self, x):
        return x.unflatten(2, (2, 8)).mean((3, 4)).flatten(1)


@pytest.fixture
def torchscript(tmp_path):
    torch.jit.script(Halves()).save(str(tmp_path / "halves.pt"))
    return tmp_path / "halves.pt"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(torchscript):
    net = open_extractor(f"torchscript:{torchscript}", protocol="stargan2")
    images = images_of(3, 3, 40, 40)
    assert torch.allclose(net(images), Halves()(prepare(images, 16, "stargan2")))
    assert (net.size, net.resize, net.name) == (6, "bilinear to 16x16", "torchscript:halves.pt")
    assert net.sha256 == hashlib.sha256(torchscript.read_bytes()).hexdigest()
    (warning,) = net.warnings
    assert "can run code" in warning


def test_a_known_torchscript_file_that_takes_other_values_is_refused(torchscript, monkeypatch):
    digest = hashlib.sha256(torchscript.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "_OTHER_RANGE", {digest: "inception:x.pth"})
    with pytest.raises(UserError, match="halves.pt takes values of 0 to 255 .* the same net is inception:x.pth"):
        open_extractor(f"torchscript:{torchscript}")


def test_a_file_that_is_no_torchscript(tmp_path):
    (tmp_path / "text.pt").write_text("x")
    with pytest.raises(UserError, match="text.pt is no TorchScript file") as caught:
        open_extractor(f"torchscript:{tmp_path / 'text.pt'}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read .*none.pt"):
        open_extractor(f"torchscript:{tmp_path / 'none.pt'}")


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "def mean(images):\n    return images.mean((2, 3))\n"
        "def sized(images):\n    assert images.shape[2:] == (24, 24)\n    return images.flatten(1)\n"
        "sized.input_size = 24\n"
        "def flat(images):\n    return images.mean()\n"
        "def broken(images):\n    raise RuntimeError('not\\ntoday')\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "own_net.py"
    sys.modules.pop("own_net", None)


def test_python_functions(module):
    net = open_extractor("module:own_net.mean")
    assert net(images_of(4, 3, 10, 12)).shape == (4, 3)
    assert (net.name, net.size, net.resize) == ("module:own_net.mean", 3, "none")
    assert net.sha256 == hashlib.sha256(module.read_bytes()).hexdigest()
    assert open_extractor("module:own_net.sized")(images_of(1, 1, 8, 8)).shape == (1, 3 * 24 * 24)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("module:own_net.none", "cannot find it"),
        ("module:no_such_package.fn", "cannot find it .No module named"),
        ("module:fn", "cannot find it"),
        ("module:own_net.number", "no Python function|cannot find it"),
        ("module:own_net.broken", "failed on a float32 image .* RuntimeError: not today"),
        ("module:own_net.flat", r"expected a tensor \[1, D\] of features, got \[\]"),
        ("inception", "unknown extractor 'inception'; choose from own, digits-cnn, inception:FILE"),
        ("inception:", "unknown extractor"),
        ("resnet:x", "unknown extractor"),
        ("inception:none.pth", "none.pth: no such file; published weights"),
        ("digits-cnn", "is for digits"),
        ("own", "is trained on real images, and there are none"),
    ],
)
def test_what_cannot_be_opened(spec, words, module):
    with pytest.raises(UserError, match=words) as caught:
        open_extractor(spec)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_refused_in_words():
    with pytest.raises(ValueError, match=r"\[N, 1 or 3, H, W\], got torch.float32 \[1, 2, 4, 4\]"):
        extractor()(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="got torch.uint8"):
        extractor()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="unknown protocol 'dirty'; choose from clean, stargan2"):
        extractor(protocol="dirty")


def test_inception_from_a_file(tmp_path):
    """The smallest whole path: a file of zeros but for the last offsets."""
    from m2o_fast.metrics.inception import InceptionV3

    state = {name: torch.zeros_like(tensor) for name, tensor in InceptionV3("fid").state_dict().items()}
    state["Mixed_7c.branch_pool.bn.bias"] += 2
    torch.save(state, tmp_path / "own.pth")
    net = open_extractor(f"inception:{tmp_path / 'own.pth'}")
    assert net.describe() | {"extractor_sha256": ""} == {
        "extractor": "Inception-v3 (fid weights)",
        "extractor_sha256": "",
        "extractor_protocol": "clean",
        "resize": "bicubic to 299x299",
        "antialias": True,
        "rounding": "none",
        "features": 2048,
        "comparable": "clean-fid (arXiv 2104.11222)",
    }
    found = net(images_of(1, 3, 32, 32))
    assert found[0, :1856].eq(0).all() and found[0, 1856:].eq(2).all()


def test_digits_cnn_is_trained_once(tmp_path, monkeypatch):
    from m2o_fast.metrics import digits_cnn

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(digits_cnn, "_STEPS", 2)
    labels = torch.arange(20) % 10
    data = digits_cnn.DigitsData(images_of(20, 1, 8, 8), labels, images_of(20, 1, 8, 8), labels)
    net = open_extractor("digits-cnn", digits=DigitsSource("tiny", lambda: data))
    assert (net.name, net.size, net.resize) == ("digits-cnn (tiny)", 64, "bicubic to 32x32")
    again = open_extractor("digits-cnn", digits=DigitsSource("tiny", lambda: pytest.fail("trained twice")))
    images = images_of(3, 3, 8, 8)
    assert again.sha256 == net.sha256 and torch.equal(again(images), net(images))
