from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.data import Augment, BatchSampler, ColorizedDigits, Dataset, open_dataset
from m2o_fast.data.dataset import Numbers, as_numbers
from m2o_fast.errors import UserError
from m2o_fast.m2o import VARIANTS, Domain

SCALE = 1024  # a power of two: numbers survive the way to [-1, 1] and back exactly


class CodedImages(Dataset):
    """Images that say who they are: pixel 0 the number, pixel 1 the epoch, pixel 2 the domain. Pairs: all 0 -> 1."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.domains = tuple(Domain(f"domain{k}", 1 + 2 * (k % 2), multimodal=k != 1) for k in range(len(counts)))
        self.image_size = 4

    def count(self, domain: str | int) -> int:
        return self.counts[self.domain_index(domain)]

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        rows, k = self.checked_indices(domain, indices), self.domain_index(domain)
        coded = torch.zeros(len(rows), self.domains[k].channels, 4, 4)
        coded[:, :, 0, 0] = rows[:, None] / SCALE
        coded[:, :, 0, 1] = (epochs if isinstance(epochs, int) else as_numbers(epochs)[:, None]) / SCALE
        coded[:, :, 0, 2] = k / SCALE
        return coded

    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        assert source != target  # a translation into its own domain is no pair, and nobody needs to ask
        if (self.domain_index(source), self.domain_index(target)) != (0, 1):
            return None
        rows = as_numbers(indices)
        known = rows % 2 == 0
        return self.images(1, torch.zeros_like(rows), rows), known  # the number stands where the epoch usually does


def decode(images: Tensor) -> list[tuple[int, int, int]]:
    """(number, epoch, domain) of each image."""
    return [tuple(row) for row in ((images[:, 0, 0, :3] + 1) / 2 * SCALE).round().to(int).tolist()]


def sampler_of(counts: list[int], batch_size: int, seed: int = 1, **options: object) -> BatchSampler:
    dataset = CodedImages(counts)
    return BatchSampler(dataset, dataset.domains, batch_size, seed, **{"pairs": None, **options})


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


counts_strategy = st.lists(st.integers(1, 9), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None)
@given(counts=counts_strategy, batch_size=st.integers(1, 20), step=st.integers(0, 30), seed=st.integers(0, 3))
def test_a_batch_is_its_samples_in_both_orders(counts: list[int], batch_size: int, step: int, seed: int) -> None:
    """Put together from batches of one sample, which leave no order to get wrong."""
    domains = len(counts)
    batch = sampler_of(counts, batch_size, seed)(step)
    one = sampler_of(counts, 1, seed)
    samples = range(step * batch_size, (step + 1) * batch_size)
    source_order = sorted(samples, key=lambda j: j % domains**2 // domains)
    target_order = sorted(samples, key=lambda j: j % domains)
    for k in range(domains):
        parts = [one(j) for j in source_order]
        assert torch.equal(batch.source[k], torch.cat([part.source[k] for part in parts]))
        parts = [one(j) for j in target_order]
        assert torch.equal(batch.reference[k], torch.cat([part.reference[k] for part in parts]))
        assert torch.equal(batch.reference2[k], torch.cat([part.reference2[k] for part in parts]))
        assert torch.equal(batch.paired[k], torch.cat([part.paired[k] for part in parts]))
    assert torch.equal(batch.has_pair, torch.cat([part.has_pair for part in parts]))
    assert batch.to_target.tolist() == [source_order.index(j) for j in target_order]
    assert batch.size == batch_size and sum(batch.source_counts) == batch_size
    assert batch.target_counts == tuple(images.shape[0] for images in batch.reference)


@settings(max_examples=25, deadline=None)
@given(counts=counts_strategy, batch_size=st.integers(1, 20))
def test_every_role_draws_without_replacement(counts: list[int], batch_size: int) -> None:
    sampler = sampler_of(counts, batch_size)
    batches = [sampler(step) for step in range(-(-80 // batch_size))]
    for role in ("source", "reference", "reference2"):
        for k, count in enumerate(counts):
            drawn = [code for batch in batches for code in decode(getattr(batch, role)[k])]
            assert {code[2] for code in drawn} <= {k}
            assert [code[1] for code in drawn] == [t // count for t in range(len(drawn))]
            for start in range(0, len(drawn) - count + 1, count):
                assert sorted(code[0] for code in drawn[start : start + count]) == list(range(count))


@pytest.mark.parametrize(("domains", "batch_size"), [(2, 8), (2, 6), (3, 9), (3, 7)])
def test_every_combination_has_the_same_share(domains: int, batch_size: int) -> None:
    sampler = sampler_of([5] * domains, batch_size)
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(domains**2):
        batch = sampler(step)
        sources = [code[2] for images in batch.source for code in decode(images)]
        targets = [k for k, count in enumerate(batch.target_counts) for _ in range(count)]
        seen.update(zip((sources[row] for row in batch.to_target.tolist()), targets, strict=True))
    assert len(seen) == domains**2 and set(seen.values()) == {batch_size}


def test_counts_are_the_same_in_every_step_when_the_combinations_divide_the_batch() -> None:
    sampler = sampler_of([5, 7, 3], 18)
    assert {sampler(step).source_counts + sampler(step).target_counts for step in range(20)} == {(6,) * 6}


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    worn = sampler_of([5, 7, 3], 7, augment=Augment())
    for step in (0, 40, 3, 2):
        worn(step)
    fresh = sampler_of([5, 7, 3], 7, augment=Augment())
    assert all(equal(getattr(worn(5), name), value) for name, value in vars(fresh(5)).items())


def test_processes_share_a_batch_without_a_seam() -> None:
    whole, part = sampler_of([5, 7], 8, augment=Augment()), sampler_of([5, 7], 4, augment=Augment())
    for step in range(3):
        parts = [part(step * 2 + rank) for rank in range(2)]
        for name in ("source", "reference", "reference2", "paired"):
            for k in range(2):
                assert torch.equal(getattr(whole(step), name)[k], torch.cat([getattr(p, name)[k] for p in parts]))


def test_seeds_and_roles_have_orders_of_their_own() -> None:
    def numbers(seed: int, role: str) -> list[int]:
        return [code[0] for code in decode(getattr(sampler_of([100, 100], 200, seed)(0), role)[0])]

    drawn = [numbers(seed, role) for seed in (1, 2) for role in ("source", "reference", "reference2")]
    assert len({tuple(row) for row in drawn}) == 6


def test_epochs_have_orders_of_their_own() -> None:
    batch = sampler_of([50, 50], 400)(0)
    for images in (batch.source[0], batch.reference[0], batch.reference2[0]):
        numbers = [code[0] for code in decode(images)]
        assert len({tuple(numbers[start : start + 50]) for start in range(0, 200, 50)}) == 4


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_second_reference_is_another_image(count: int) -> None:
    for seed in range(20):  # small domains, so that the shuffles meet in one, two, ... places
        sampler = sampler_of([count, count], 4 * count, seed)
        for step in range(4):
            batch = sampler(step)
            for first, second in zip(batch.reference, batch.reference2, strict=True):
                pairs = zip(decode(first), decode(second), strict=True)
                assert all(a[0] != b[0] and a[1] == b[1] for a, b in pairs)


def test_a_domain_with_one_image_is_its_own_second_reference() -> None:
    batch = sampler_of([1, 3], 8)(0)
    assert {code[0] for code in decode(batch.reference2[0])} == {0}


def test_pairs_belong_to_their_sources() -> None:
    sampler = sampler_of([6, 5, 4], 18)
    seen = 0
    for step in range(6):
        batch = sampler(step)
        sources = torch.cat([images.mean(1, keepdim=True) for images in batch.source])[batch.to_target]
        targets = [k for k, count in enumerate(batch.target_counts) for _ in range(count)]
        truth = torch.cat([images.mean(1, keepdim=True) for images in batch.paired])
        for target, source, image, known in zip(targets, decode(sources), truth, batch.has_pair.tolist(), strict=True):
            assert known == ((source[2], target) == (0, 1) and source[0] % 2 == 0)
            if known:
                seen += 1
                assert decode(image[None])[0][1] == source[0]
            else:
                assert not image.any()
    assert seen > 3


def test_without_pairs_the_fields_are_empty() -> None:
    batch = sampler_of([4, 4], 8, pairs=())(0)
    assert batch.paired == () and batch.has_pair is None and batch.noise == {}


def digits(count: int = 40, pair_fraction: float = 1.0, size: int = 8) -> ColorizedDigits:
    generator = torch.Generator().manual_seed(3)
    content = torch.randint(1, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    return ColorizedDigits(content, labels, split="train", pair_fraction=pair_fraction)


@pytest.mark.parametrize("augment", [None, Augment(0.0, 0.0), Augment(0.0, 1.0), Augment(1.0, 0.5)])
def test_a_pair_is_the_gray_digit_of_its_source_also_after_augmentation(augment: Augment | None) -> None:
    dataset = digits()
    batch = BatchSampler(dataset, dataset.domains, 32, 5, pairs=[(0, 1)], augment=augment)(3)
    gray = (batch.paired[1][batch.has_pair[batch.target_counts[0] :]] + 1) / 2
    rows = batch.to_target[batch.has_pair]
    assert len(rows) == 8 and int(rows.max()) < batch.source_counts[0]
    colored = (batch.source[0][rows] + 1) / 2
    color = (colored * gray).sum((2, 3)) / (gray * gray).sum((2, 3))
    torch.testing.assert_close(colored, gray * color[:, :, None, None], rtol=0, atol=1e-6)
    assert color.std() > 0.1


@pytest.mark.parametrize("augment", [Augment(1.0, 0.0), Augment(0.0, 1.0)])
def test_augmentation_changes_images_and_references_have_views_of_their_own(augment: Augment) -> None:
    dataset = digits(count=1)  # one image, so that a difference can come from the view only
    batch = BatchSampler(dataset, dataset.domains, 32, 5, pairs=[(0, 1)], augment=augment)(0)
    plain = BatchSampler(dataset, dataset.domains, 32, 5, pairs=[(0, 1)])(0)
    for images, others in ((batch.source, plain.source), (batch.reference, plain.reference)):
        assert not torch.equal(images[1], others[1])
    if augment.crop_probability:
        assert not torch.equal(batch.reference[1], batch.reference2[1])
        assert not torch.equal(batch.reference[1], batch.source[1])


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_the_share_of_pairs_over_many_epochs(fraction: float) -> None:
    dataset = digits(count=64, pair_fraction=fraction)
    sampler = BatchSampler(dataset, dataset.domains, 64, 5, pairs=[(0, 1)])
    known = sum(int(sampler(step).has_pair.sum()) for step in range(64))
    assert known == pytest.approx(fraction * 64 * 16, rel=0.1)  # in 32 epochs of 64 draws, half of them go to gray


def test_shared_layers_get_the_gray_channel_repeated() -> None:
    dataset = digits()
    domains = VARIANTS["plain"].resolve(dataset.domains)
    batch = BatchSampler(dataset, domains, 8, 5, pairs=[(0, 1)])(0)
    own = BatchSampler(dataset, dataset.domains, 8, 5, pairs=[(0, 1)])(0)
    for name in ("source", "reference", "reference2", "paired"):
        wide, narrow = getattr(batch, name)[1], getattr(own, name)[1]
        assert wide.shape[1] == 3 and torch.equal(wide, narrow.expand(-1, 3, -1, -1))


def test_images_are_float32_between_minus_one_and_one() -> None:
    dataset = open_dataset("digits", split="train", image_size=16)
    batch = BatchSampler(dataset, dataset.domains, 16, 5, pairs=[(0, 1)], augment=Augment(1.0, 1.0))(2)
    for images in (*batch.source, *batch.reference, *batch.reference2, *batch.paired):
        assert images.dtype == torch.float32 and images.min() >= -1 and images.max() <= 1
    assert min(images.min() for images in batch.source) == -1


def test_wrong_arguments_are_named() -> None:
    dataset = CodedImages([3, 3])
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        sampler_of([3, 3], 0)
    with pytest.raises(UserError, match="domain0, domain1, got domain1, domain0"):
        BatchSampler(dataset, dataset.domains[::-1], 4, 1, pairs=())
    with pytest.raises(UserError, match="'domain1' has 3 channels, asked for 1"):
        BatchSampler(dataset, [dataset.domains[0], Domain("domain1", 1)], 4, 1, pairs=())
    with pytest.raises(UserError, match="'domain1' has no images"):
        sampler_of([3, 0], 4)
    with pytest.raises(ValueError, match="step must not be negative"):
        sampler_of([3, 3], 4)(-1)
