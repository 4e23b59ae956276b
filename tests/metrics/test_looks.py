"""Distance to the nearest look and coverage of the looks: cases by hand, and the definition in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.metrics import NearestLook
from m2o_fast.metrics.diversity import Lpips
from m2o_fast.metrics.looks import pixel_vectors


def flat(*levels: float) -> torch.Tensor:
    """Images of one level each, ``[n, 1, 2, 2]``."""
    return torch.tensor(levels, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 2, 2)


def test_a_case_by_hand() -> None:
    """Looks at 0, 0.5 and 1; outputs at 0.1, 0.2 and 0.9: two are nearest to the first look, one to the last."""
    measured = NearestLook(pixel_vectors)
    measured.update(flat(0.1, 0.2, 0.9), flat(0.0, 0.5, 1.0))
    assert measured.compute() == {
        "nearest": pytest.approx((0.01 + 0.04 + 0.01) / 3, rel=1e-12),
        "looks_covered": pytest.approx(2 / 3, rel=1e-12),
    }
    measured.update(flat(0.5), flat(0.25))  # a content with one look: 0.0625, and nothing about the share
    found = measured.compute()
    assert found["nearest"] == pytest.approx((0.02 + 0.0625) / 2, rel=1e-12)
    assert found["looks_covered"] == pytest.approx(2 / 3, rel=1e-12) and measured.contents == 2


def test_perfect_outputs_and_one_look_for_all() -> None:
    perfect, stuck = NearestLook(pixel_vectors), NearestLook(pixel_vectors)
    looks = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    perfect.update(looks.flip(0), looks)
    stuck.update(looks[2:3].expand(7, -1, -1, -1), looks)
    assert perfect.compute() == {"nearest": 0.0, "looks_covered": 1.0}
    assert stuck.compute() == {"nearest": 0.0, "looks_covered": pytest.approx(0.2)}


def plain(contents: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The definition in loops over numpy images."""
    distances, shares = [], []
    for outputs, looks in contents:
        table = [[float(((output - look) ** 2).mean()) for look in looks] for output in outputs]
        distances.append(sum(min(row) for row in table) / len(table))
        if len(looks) > 1:
            shares.append(len({row.index(min(row)) for row in table}) / len(looks))
    found = {"nearest": sum(distances) / len(distances)}
    return {**found, "looks_covered": sum(shares) / len(shares)} if shares else found


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5), st.integers(0, 5))
def test_it_is_the_definition_however_it_is_cut(sizes: list[tuple[int, int]], cut: int) -> None:
    random = np.random.default_rng(len(sizes))
    contents = [(random.random((m, 3, 3, 2)), random.random((n, 3, 3, 2))) for m, n in sizes]
    whole, first, second = (NearestLook(pixel_vectors) for _ in range(3))
    for number, (outputs, looks) in enumerate(contents):
        for measured in (whole, first if number < cut else second):
            measured.update(torch.from_numpy(outputs), torch.from_numpy(looks))
    first.merge_state(second.state())
    expected = plain(contents)
    for measured in (whole, first):
        assert measured.compute() == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}


def test_with_lpips_it_is_the_smallest_of_its_distances() -> None:
    net = Lpips()
    generator = torch.Generator().manual_seed(3)
    outputs, looks = torch.rand(3, 3, 32, 32, generator=generator), torch.rand(2, 1, 32, 32, generator=generator)
    looks = looks.expand(-1, 3, -1, -1)
    measured = NearestLook(net.embed)
    measured.update(outputs, looks)
    table = [[float(net(output[None], look[None])) for look in looks] for output in outputs]
    assert measured.compute()["nearest"] == pytest.approx(sum(map(min, table)) / 3, rel=1e-5)
    assert measured.compute()["looks_covered"] == len({row.index(min(row)) for row in table}) / 2


def test_wrong_input_is_refused_in_words() -> None:
    measured = NearestLook(pixel_vectors)
    with pytest.raises(ValueError, match="no contents"):
        measured.compute()
    for outputs, looks in ((flat(), flat(0.0)), (flat(0.0), flat()), (flat(0.0), torch.zeros(1, 3, 2, 2))):
        with pytest.raises(ValueError, match=r"must be \[M >= 1, C, H, W\] and \[L >= 1, C, H, W\]"):
            measured.update(outputs, looks)
