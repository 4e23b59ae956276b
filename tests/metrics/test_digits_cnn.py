"""The net for digits: it learns both of its tasks, the same way every time, and its features see colour."""

import pytest
import torch

from m2o_fast.data.digits import load_digits
from m2o_fast.metrics import FeatureBank, digits_cnn, frechet_distance
from m2o_fast.metrics.digits_cnn import DigitsData, cached_digits_cnn, train_digits_cnn


@pytest.fixture(scope="module")
def data():
    return DigitsData(*load_digits("train", 16), *load_digits("test", 16))


@pytest.fixture(scope="module")
def trained(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_cnn, "_STEPS", 120)  # a fifth of what is usual
        return train_digits_cnn(data)


def test_it_learns_digits_and_colours(trained):
    assert trained.accuracy > 0.9
    assert trained.color_error < 0.13  # of 0.289 for a guess of the mean
    assert len(trained.sha256) == 64 and not trained.net.training


def fid(net, images, others):
    banks = []
    for colored in (images, others):
        small = torch.nn.functional.interpolate(colored, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        banks.append(FeatureBank(64))
        banks[-1].update(net.features(small), torch.arange(len(small)))
    return frechet_distance(banks[0].mean(), banks[0].covariance(), banks[1].mean(), banks[1].covariance())


def test_features_tell_sets_of_other_colours_and_other_digits_apart(trained, data):
    generator = torch.Generator().manual_seed(0)
    digits, labels = data.images.float() / 255, data.labels
    colors = torch.rand(len(digits), 3, 1, 1, generator=generator)
    one_half, other_half = digits[0::2] * colors[0::2], digits[1::2] * colors[1::2]
    chance = fid(trained.net, one_half, other_half)
    one_color = digits[1::2] * torch.tensor([1.0, 0, 0])[:, None, None]
    brighter = digits[1::2] * (0.5 + colors[1::2] / 2)
    one_digit = (digits * colors)[labels == 3]
    for others in (one_color, brighter, one_digit):
        assert fid(trained.net, one_half, others) > 5 * chance


def test_training_depends_on_the_seed_alone(data, monkeypatch):
    monkeypatch.setattr(digits_cnn, "_STEPS", 3)
    first = train_digits_cnn(data)
    torch.manual_seed(1234)
    torch.rand(7)
    with torch.no_grad():
        again = train_digits_cnn(data)
    assert again.sha256 == first.sha256 and again.accuracy == first.accuracy
    assert train_digits_cnn(data, seed=1).sha256 != first.sha256


def test_trained_weights_are_kept_and_replaced_when_damaged(data, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_cnn, "_STEPS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def make_data():
        calls.append(1)
        return data

    first = cached_digits_cnn("digits", make_data)
    (path,) = (tmp_path / "m2o_fast" / "extractors").iterdir()
    content = path.read_bytes()
    again = cached_digits_cnn("digits", make_data)
    assert len(calls) == 1
    assert (again.sha256, again.accuracy, again.color_error) == (first.sha256, first.accuracy, first.color_error)
    damages = (b"", content[:-4], content[:-4] + bytes(4), b"\x80\x04N.")
    for count, damage in enumerate(damages, start=2):
        path.write_bytes(damage)
        assert cached_digits_cnn("digits", make_data).sha256 == first.sha256
        assert len(calls) == count and path.read_bytes() == content
    monkeypatch.setattr(digits_cnn, "_RECIPE", digits_cnn._RECIPE + 1)
    cached_digits_cnn("digits", make_data)
    assert len(calls) == len(damages) + 2
    cached_digits_cnn("other", make_data)
    assert len(calls) == len(damages) + 3


def test_a_cache_that_cannot_be_written_costs_a_warning(data, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_cnn, "_STEPS", 2)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="digits-cnn-some-0.safetensors: Not a directory; the next evaluation"):
        assert 0 <= cached_digits_cnn("some", lambda: data).accuracy <= 1


def test_wrong_input_is_refused_in_words(data):
    with pytest.raises(ValueError, match=r"images \[n, 1, S, S\] and labels \[n\], got \[2, 3, 8, 8\]"):
        train_digits_cnn(data._replace(images=torch.zeros(2, 3, 8, 8), labels=torch.zeros(2)))
    with pytest.raises(ValueError, match="key must be of letters"):
        cached_digits_cnn("../x", lambda: data)
