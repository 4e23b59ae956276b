"""The numbers of one translation direction, from batches."""

import pytest
import torch

from m2o_fast.metrics import ColorStatistics, color_report, evaluate_multimodal, evaluate_unimodal


def batches_of(tensors, size):
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


@pytest.fixture
def gray():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 1, 8, 8, generator=generator), torch.rand(12, 1, 8, 8, generator=generator)


@pytest.fixture
def samples():
    """Three samples of (images, content)."""
    generator = torch.Generator().manual_seed(1)
    contents = [torch.rand(30, 1, 8, 8, generator=generator) for _ in range(3)]
    return [(content * torch.rand(30, 3, 1, 1, generator=generator), content) for content in contents]


def test_unimodal_error_and_independence_of_style(gray):
    outputs, truth = gray
    result = evaluate_unimodal([(outputs, truth, outputs.clone())])
    assert result == {"mse": pytest.approx(((outputs - truth).double() ** 2).mean().item(), abs=1e-9)} | {
        "style_independent": True
    }
    assert evaluate_unimodal([(truth, truth, truth)])["mse"] == 0


@pytest.mark.parametrize("size", [1, 5, 12])
def test_unimodal_does_not_depend_on_the_batch_size(gray, size):
    outputs, truth = gray
    whole = evaluate_unimodal([(outputs, truth, outputs)])
    assert evaluate_unimodal(batches_of((outputs, truth, outputs), size)) == pytest.approx(whole, abs=1e-9)


def test_one_changed_bit_is_a_dependence_on_style(gray):
    outputs, truth = gray
    restyled = outputs.clone()
    restyled[7, 0, 3, 3] = torch.nextafter(restyled[7, 0, 3, 3], torch.tensor(2.0))
    for size in (1, 5, 12):
        assert evaluate_unimodal(batches_of((outputs, truth, restyled), size))["style_independent"] is False
    zeros = torch.zeros(1, 1, 2, 2)
    assert evaluate_unimodal([(zeros, zeros, -zeros)])["style_independent"] is False
    assert evaluate_unimodal([(zeros, zeros, zeros.double())])["style_independent"] is False
    not_a_number = zeros / 0
    assert evaluate_unimodal([(not_a_number, zeros, not_a_number.clone())])["style_independent"] is True


def test_memory_layout_is_no_dependence_on_style():
    outputs = torch.rand(2, 3, 4, 4)
    restyled = outputs.contiguous(memory_format=torch.channels_last)
    assert evaluate_unimodal([(outputs, outputs, restyled)])["style_independent"] is True


def test_multimodal_is_the_colour_report(samples):
    statistics = [ColorStatistics(bins=3, bits=5) for _ in samples]
    for statistic, (images, content) in zip(statistics, samples, strict=True):
        statistic.update(images, content)
    assert evaluate_multimodal(*([sample] for sample in samples), bins=3, bits=5) == color_report(*statistics)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_multimodal_does_not_depend_on_the_batch_size(samples, size):
    whole = evaluate_multimodal(*([sample] for sample in samples))
    split = evaluate_multimodal(*(batches_of(sample, size) for sample in samples))
    assert split == pytest.approx(whole, abs=1e-9)
    assert set(split) == {"color_recall", "color_recall_ceiling", "coverage", "unique_colors", "content_mse"}


def test_multimodal_works_without_content(samples):
    result = evaluate_multimodal(*([(images, None)] for images, _ in samples))
    assert 0 <= result["color_recall"] <= 1


def test_the_same_distribution_reaches_the_ceiling_and_one_colour_does_not():
    generator = torch.Generator().manual_seed(2)
    content = torch.rand(2000, 1, 2, 2, generator=generator)
    generated, real, other = (content * torch.rand(2000, 3, 1, 1, generator=generator) for _ in range(3))
    good = evaluate_multimodal([(generated, content)], [(real, content)], [(other, content)])
    assert good["color_recall"] == pytest.approx(good["color_recall_ceiling"], abs=0.02)
    assert good["color_recall"] > 0.85 and good["coverage"] == 1
    collapsed = evaluate_multimodal(
        [(generated[:1].expand(2000, 3, 2, 2), content)], [(real, content)], [(other, content)]
    )
    assert collapsed["color_recall"] < 0.2 and collapsed["content_mse"] > 0.001


def test_wrong_batches_are_refused_in_words(gray, samples):
    outputs, truth = gray
    with pytest.raises(ValueError, match="no images"):
        evaluate_unimodal([])
    with pytest.raises(ValueError, match="two styles must have one shape"):
        evaluate_unimodal([(outputs, truth, outputs[:3])])
    with pytest.raises(ValueError, match="must have one shape"):
        evaluate_unimodal([(outputs, truth[:3], outputs)])
    with pytest.raises(ValueError, match="no images"):
        evaluate_multimodal([], [], [])
    (images, content), real, other = samples
    with pytest.raises(ValueError, match="real has 30 images but generated has 10"):
        evaluate_multimodal([(images[:10], content[:10])], [real], [other])
