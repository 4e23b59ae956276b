"""References followed and content kept: cases by hand, and the definitions in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2o_fast.metrics import ContentKept, ReferencesFollowed, color_statistics


def statistics(*levels: float) -> torch.Tensor:
    """Of the outputs of one source, ``[1, M, 1]``."""
    return torch.tensor(levels)[None, :, None]


def followed(outputs: torch.Tensor, references: torch.Tensor) -> float:
    found = ReferencesFollowed()
    found.update(outputs, references)
    return found.compute()


def test_means_and_deviations_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0], [1.0, 1.0]])[None, None]
    assert color_statistics(image).tolist()[0] == pytest.approx([0.75, (0.75 * 0.25) ** 0.5])
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    pixels = images.double().flatten(2).numpy()
    expected = np.concatenate((pixels.mean(2), pixels.std(2)), axis=1)
    assert color_statistics(images).numpy() == pytest.approx(expected)


def test_references_by_hand() -> None:
    """Three outputs at 0, 1 and 0.4 with references at 0.1, 0.9 and 1: the last is nearer to the first one's."""
    assert followed(statistics(0, 1, 0.4), statistics(0.1, 0.9, 1.0)) == pytest.approx((1 + 0.5 + 0) / 3)
    assert followed(statistics(0.1, 0.9), statistics(0, 1)) == 1
    assert followed(statistics(0.9, 0.1), statistics(0, 1)) == 0
    assert followed(statistics(0.2, 0.8, 0.8), statistics(0, 1, 1)) == 1  # one reference twice
    assert followed(torch.tensor([[[0.0], [1.0]], [[0.4], [0.6]]]), torch.tensor([[[0.0], [1.0]], [[0.5], [0.5]]])) == 1
    with pytest.raises(ValueError, match="no sources with different references"):
        followed(statistics(0.3, 0.7), statistics(0.5, 0.5))


def test_ignored_references_are_a_half_whatever_the_outputs_are() -> None:
    generator = torch.Generator().manual_seed(3)
    outputs = torch.rand(4000, 1, 6, generator=generator).expand(-1, 5, -1)
    assert followed(outputs, torch.rand(4000, 5, 6, generator=generator)) == pytest.approx(0.5, abs=1e-9)
    assert followed(
        torch.rand(4000, 5, 6, generator=generator), torch.rand(4000, 5, 6, generator=generator)
    ) == pytest.approx(0.5, abs=0.02)


def test_it_is_the_definition_however_it_is_cut() -> None:
    generator = torch.Generator().manual_seed(4)
    outputs, references = torch.rand(2, 6, 3, 4, generator=generator, dtype=torch.float64).unbind()
    shares = []
    for made, wanted in zip(outputs, references, strict=True):
        table = [[float((a - b).square().sum()) for b in wanted] for a in made]
        shares += [row[m] < other for m, row in enumerate(table) for k, other in enumerate(row) if k != m]
    whole, first, second = (ReferencesFollowed() for _ in range(3))
    whole.update(outputs, references)
    first.update(outputs[:2], references[:2])
    second.update(outputs[2:], references[2:])
    first.merge_state(second.state())
    for found in (whole, first):
        assert found.compute() == pytest.approx(sum(shares) / len(shares)) and found.sources == 6


def kept(back: torch.Tensor, sources: torch.Tensor) -> dict[str, float]:
    found = ContentKept()
    found.update(back, sources)
    return found.compute()


def test_content_by_hand() -> None:
    """Sources at 0 and 1 differ by 1; images that come back off by 0.1 have an error of 0.01."""
    sources = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand(-1, 1, 2, 2)
    assert kept((sources - 0.1).abs(), sources) == pytest.approx({"cycle_mse": 0.01, "content_kept": 0.99})
    assert kept(sources.flip(0), sources) == pytest.approx({"cycle_mse": 1, "content_kept": 0})
    assert kept(torch.full_like(sources, 0.5), sources)["content_kept"] == pytest.approx(0.75)


def test_content_is_the_definition_however_it_is_cut() -> None:
    back, sources = torch.rand(2, 9, 3, 4, 4, generator=torch.Generator().manual_seed(5)).double().unbind()
    others = [(a - b).square().mean() for i, a in enumerate(sources) for b in sources[:i]]
    error = (back - sources).square().mean()
    expected = {"cycle_mse": error.item(), "content_kept": 1 - error.item() / (sum(others) / len(others)).item()}
    first, second = ContentKept(), ContentKept()
    first.update(back[:4], sources[:4])
    second.update(back[4:], sources[4:])
    first.merge_state(second.state())
    first.merge_state(ContentKept().state())
    assert first.compute() == pytest.approx(expected) == kept(back, sources)


def test_sources_that_are_all_the_same_tell_nothing_of_content() -> None:
    same = torch.full((3, 1, 2, 2), 0.3)
    assert kept(same + 0.1, same) == {"cycle_mse": pytest.approx(0.01)}


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no sources"):
        ReferencesFollowed().compute()
    with pytest.raises(ValueError, match="no images"):
        ContentKept().compute()
    with pytest.raises(ValueError, match=r"\[n, M >= 2, D\]"):
        followed(statistics(0.1), statistics(0.1))
    with pytest.raises(ValueError, match="one shape"):
        kept(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))
