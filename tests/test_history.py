"""History pools: what comes out, what stays, and that several processes hold the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m2o_fast.nn.history import HalfPool, HistoryPool


def numbered(first: int, count: int) -> Tensor:
    """Images of one pixel that holds their number."""
    return torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1)


def draws(count: int, seed: int = 0) -> Tensor:
    """For either kind; one of them looks at two numbers, the other at three."""
    return torch.rand((count, 3), generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("kind", [HistoryPool, HalfPool])
def test_processes_hold_what_one_would(kind: type[HistoryPool]) -> None:
    """Each gets its own rows back, and both pools hold what that of a single process holds."""
    whole, halves = kind(6, (1, 1, 1)), [kind(6, (1, 1, 1)) for _ in range(2)]
    for turn in range(6):
        images, numbers = numbered(4 * turn, 4), draws(4, turn)
        expected = whole(images, numbers)
        whole.settle()
        for rank, (rows, pool) in enumerate(zip((slice(0, 1), slice(1, 4)), halves, strict=True)):
            sent = iter([images, numbers])
            pool.gather = lambda _, sent=sent, rows=rows: (next(sent), rows)  # type: ignore[misc]
            assert torch.equal(pool(images[rows], numbers[rows]), expected[rows]), rank
            pool.settle()
            assert torch.equal(pool.images, whole.images)


# --- half of a batch, as SimGAN has it ---


def halved(pool: HalfPool, images: Tensor, seed: int = 0) -> Tensor:
    """What a whole batch gives way to."""
    given = pool(images, draws(len(images), seed))
    pool.settle()
    return given


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_half_of_what_is_shown_is_old_in_the_long_run(count: int) -> None:
    """And half is stored, whichever number of images a batch has."""
    pool, shown, stored = HalfPool(7, (1, 1, 1)), [], []
    for turn in range(200):
        before, images = pool.images.clone(), numbered(1 + count * turn, count)
        shown.append(int((halved(pool, images, turn) != images).sum()))
        stored.append(int((pool.images != before).sum()))
    assert int(pool.filled) == 7
    assert set(shown[30:]) == set(stored[30:]) == {count // 2, -(-count // 2)}
    for numbers in (shown, stored):  # with odd numbers a standard deviation of 7
        assert abs(sum(numbers) - 100 * count) < 30


def test_half_a_batch_is_old_as_soon_as_there_is_so_much() -> None:
    """It was there before the batch; meanwhile half of every batch is added, and full it is after three."""
    pool = HalfPool(6, (1, 1, 1))
    for turn in range(3):
        images, held = numbered(1 + 4 * turn, 4), set(pool.images.flatten().tolist()) - {0}
        given = halved(pool, images, turn).flatten().tolist()
        fresh = [image for image in given if image in images]
        old = [image for image in given if image in held]
        assert len(old) == len(set(old)) == (2 if turn else 0) and len(fresh) == 4 - len(old)
        assert int(pool.filled) == 2 * turn + 2
        assert held < set(pool.images.flatten().tolist()) <= held | set(fresh) | {0}


@pytest.mark.parametrize("parts", [1, 2])
def test_when_full_half_a_batch_is_old_and_half_a_batch_is_replaced(parts: int) -> None:
    """Exactly, in every batch, also one that comes in parts; what is shown anew is stored; all places are as likely."""
    count, capacity = 8, 10
    pool, given_at, replaced_at = HalfPool(capacity, (1, 1, 1)), torch.zeros(capacity), torch.zeros(capacity)
    halved(pool, numbered(1, 2 * capacity))
    assert int(pool.filled) == capacity
    for turn in range(200):
        before, images, numbers = pool.images.clone(), numbered(100 + count * turn, count), draws(count, turn)
        pieces = zip(images.chunk(parts), numbers.chunk(parts), strict=True)
        given = torch.cat([pool(*piece) for piece in pieces])
        assert torch.equal(pool.images, before)
        pool.settle()
        old, replaced = torch.isin(before, given).flatten(), (pool.images != before).flatten()
        assert old.sum() == replaced.sum() == (given != images).sum() == count // 2
        assert set(pool.images[replaced].flatten().tolist()) == set(given[given == images].tolist())
        given_at, replaced_at = given_at + old, replaced_at + replaced
    for seen in (given_at, replaced_at):  # expected 80 times each, with a standard deviation of 7
        assert 50 < seen.min() and seen.max() < 110


def test_parts_are_the_batch_and_cost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number draws a place once, however many parts come after it."""
    minimum, drawn = torch.minimum, []
    monkeypatch.setattr(torch, "minimum", lambda *given: drawn.append(1) or minimum(*given))
    pools, costs = [HalfPool(10, (1, 1, 1)) for _ in range(2)], []
    for turn in range(4):
        images, numbers, given = numbered(1 + 13 * turn, 13), draws(13, turn), []
        for pool, sizes in zip(pools, ([13], [1, 4, 0, 3, 5]), strict=True):
            given.append(
                torch.cat([pool(*part) for part in zip(images.split(sizes), numbers.split(sizes), strict=True)])
            )
            pool.settle()
            costs.append(len(drawn))
            drawn.clear()
        assert torch.equal(*given) and torch.equal(pools[0].images, pools[1].images)
    assert set(costs) == {2 * 7}


def test_what_is_not_finite_is_not_kept_in_halves_either() -> None:
    pool = HalfPool(4, (1, 1, 1))
    nan = torch.full((2, 1, 1, 1), float("nan"))
    halved(pool, nan)
    assert int(pool.filled) == 0 and pool.images.isfinite().all()
    mixed = numbered(1, 8)
    mixed[:4] = float("nan")
    halved(pool, mixed)
    assert int(pool.filled) == 2 and set(pool.images.flatten().tolist()) <= {0, 5, 6, 7, 8}
    halved(pool, numbered(1, 8))
    held = pool.images.clone()
    pool(nan, torch.full((2, 3), float("nan")))
    pool.settle()
    assert torch.equal(pool.images, held)


def test_a_batch_may_be_larger_than_the_pool() -> None:
    """Then fewer than half can be old: all that there are, and all places are replaced."""
    pool = HalfPool(3, (1, 1, 1))
    for turn in range(3):
        held, images = pool.images.clone(), numbered(1 + 9 * turn, 9)
        given = halved(pool, images, turn)
        assert (given != images).sum() == (3 if turn else 0) and torch.isin(held, given).all() == bool(turn)
        assert int(pool.filled) == 3 and (pool.images != held).all()
    pool.settle()
    assert halved(pool, numbered(1, 0)).shape == (0, 1, 1, 1)
