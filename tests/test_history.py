"""History pools: what comes out, what stays, and that several processes hold the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from m2o_fast.nn.history import HalfPool, HistoryPool


def numbered(first: int, count: int) -> Tensor:
    """Images of one pixel that holds their number."""
    return torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1)


def draws(count: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 2), generator=torch.Generator().manual_seed(seed))


def test_while_it_fills_images_come_back() -> None:
    pool = HistoryPool(5, (1, 1, 1))
    for first in (1, 4):
        images = numbered(first, 3 if first == 1 else 2)
        assert torch.equal(pool(images, draws(len(images))), images)
    assert pool.images.flatten().tolist() == [1, 2, 3, 4, 5] and int(pool.filled) == 5


def test_afterwards_every_second_image_is_exchanged_for_any_of_the_pool() -> None:
    pool, count = HistoryPool(10, (1, 1, 1)), 10_000
    images = numbered(0, count + 10)
    given = pool(images, draws(count + 10))
    assert torch.equal(given[:10], images[:10])
    exchanged = (given != images)[10:].float()
    assert abs(float(exchanged.mean()) - 0.5) < 4 * (0.25 / count) ** 0.5
    # Nothing is lost and nothing doubled: what was not given back is in the pool.
    assert sorted(torch.cat([given[10:], pool.images]).flatten().tolist()) == images.flatten().tolist()
    # Whichever is taken: an image stays 2 * 10 turns on average.
    stayed = (images - given)[10:][exchanged.bool().flatten().nonzero().flatten()]
    assert float(stayed.mean()) == pytest.approx(20, rel=0.1)


def test_the_numbers_say_which() -> None:
    pool = HistoryPool(2, (1, 1, 1))
    pool(numbered(1, 2), draws(2))
    given = pool(numbered(3, 3), torch.tensor([[0.49, 0.99], [0.5, 0.0], [0.0, 0.0]]))
    assert given.flatten().tolist() == [2, 4, 1]
    assert pool.images.flatten().tolist() == [5, 3]


def test_what_is_not_finite_is_not_kept() -> None:
    pool = HistoryPool(2, (1, 1, 1))
    nan = torch.full((1, 1, 1, 1), float("nan"))
    pool(nan, draws(1))
    assert int(pool.filled) == 0
    pool(numbered(1, 2), draws(2))
    assert pool(nan, torch.zeros(1, 2)).item() == 1 and pool.images.flatten().tolist() == [1, 2]


def test_stored_images_have_no_graph_and_none_are_nothing() -> None:
    pool = HistoryPool(2, (1, 1, 1))
    images = numbered(1, 2).requires_grad_()
    assert not pool(images, draws(2)).requires_grad and not pool.images.requires_grad
    assert pool(images[:0], draws(0)).shape == (0, 1, 1, 1)
    with pytest.raises(ValueError, match="at least 1 image"):
        HistoryPool(0, (1, 1, 1))


@pytest.mark.parametrize(
    ("kind", "drawn"), [(HistoryPool, draws), (HalfPool, lambda count, seed: half_draws(count, 6, seed))]
)
def test_processes_hold_what_one_would(kind: type[HistoryPool], drawn: Callable[[int, int], Tensor]) -> None:
    """Each gets its own rows back, and both pools hold what that of a single process holds."""
    whole, halves = kind(6, (1, 1, 1)), [kind(6, (1, 1, 1)) for _ in range(2)]
    for turn in range(6):
        images, numbers = numbered(4 * turn, 4), drawn(4, turn)
        expected = whole(images, numbers)
        for rank, (rows, pool) in enumerate(zip((slice(0, 1), slice(1, 4)), halves, strict=True)):
            sent = iter([images, numbers])
            pool.gather = lambda _, sent=sent, rows=rows: (next(sent), rows)  # type: ignore[misc]
            assert torch.equal(pool(images[rows], numbers[rows]), expected[rows]), rank
            assert torch.equal(pool.images, whole.images)


# --- half of a batch, as SimGAN has it ---


def half_draws(count: int, capacity: int, seed: int = 0) -> Tensor:
    return HalfPool.draw(count, capacity, torch.Generator().manual_seed(seed))


def test_it_fills_with_half_of_every_batch() -> None:
    """Meanwhile images that are not there yet are stood in for by those of the batch."""
    pool = HalfPool(6, (1, 1, 1))
    for turn in range(3):
        images, held = numbered(1 + 4 * turn, 4), set(pool.images.flatten().tolist()) - {0}
        given = pool(images, half_draws(4, 6, turn)).flatten().tolist()
        assert int(pool.filled) == 2 * turn + 2
        assert given[::2] == images[::2].flatten().tolist()
        assert set(given[1::2]) <= held | set(images.flatten().tolist())
    assert pool.images.flatten().tolist() == [1, 3, 5, 7, 9, 11]


def test_when_full_half_a_batch_is_old_and_half_a_batch_is_replaced() -> None:
    """Exactly, in every batch; images that are given out stay; all places are as likely."""
    pool, count, capacity = HalfPool(20, (1, 1, 1)), 8, 20
    pool(numbered(1, 40), torch.tensor([[0.0, 0.0], [1.0, 0.99]]).repeat(20, 1))
    replaced, drawn = torch.zeros(capacity), torch.zeros(capacity)
    for turn in range(200):
        before, images = pool.images.clone(), numbered(100 + count * turn, count)
        numbers = half_draws(count, capacity, turn)
        given = pool(images, numbers)
        assert torch.equal(given[::2], images[::2])
        old = (given[1::2] == before.flatten()[:, None, None, None, None]).flatten(1).any(1)
        assert old.sum() == count // 2 == len(given[1::2].unique())
        changed = (pool.images != before).flatten()
        assert changed.sum() == count // 2 and not (changed & old).any()
        assert sorted(pool.images.flatten()[changed].tolist()) == images[::2].flatten().tolist()
        replaced, drawn = replaced + changed, drawn + old
    for seen in (replaced, drawn):  # expected 40 times each, with a standard deviation of 5.7
        assert 12 < seen.min() and seen.max() < 68


def test_what_is_not_finite_is_not_kept_in_halves_either() -> None:
    pool = HalfPool(4, (1, 1, 1))
    nan = torch.full((2, 1, 1, 1), float("nan"))
    pool(nan, half_draws(2, 4))
    assert int(pool.filled) == 0 and pool.images.isfinite().all()
    pool(numbered(1, 8), half_draws(8, 4))
    held = pool.images.clone()
    for numbers in (half_draws(2, 4), torch.full((2, 2), float("nan"))):
        pool(nan, numbers)
        assert torch.equal(pool.images, held)


def test_a_batch_may_be_larger_than_the_pool() -> None:
    numbers = half_draws(7, 3)
    assert numbers[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert sorted((numbers[:6, 1] * 3).long().tolist()) == [0, 0, 1, 1, 2, 2]
    assert HalfPool(3, (1, 1, 1))(numbered(1, 7), numbers).shape == (7, 1, 1, 1)
