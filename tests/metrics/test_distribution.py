"""FID, KID, precision and recall against closed forms, plain NumPy and torchmetrics; the bank of features."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from m2o_fast.errors import UserError
from m2o_fast.metrics import (
    FeatureBank,
    distribution_report,
    distribution_warnings,
    frechet_distance,
    kid,
    precision_recall,
)


def features_of(count, size, seed, scale=1.0, shift=0.0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * scale + shift


def bank_of(features, numbers=None, batch=None, **settings):
    bank = FeatureBank(features.shape[1], **settings)
    numbers = torch.arange(len(features)) if numbers is None else numbers
    for rows in torch.arange(len(features)).split(batch or max(1, len(features))):
        bank.update(features[rows], numbers[rows])
    return bank


# --- definitions once more, in NumPy ---


def plain_frechet(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = np.trace(scipy.linalg.sqrtm(s @ t)).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross


def plain_mmd(x, y):
    """The double sums of the unbiased estimate, pair by pair."""
    x, y = x.double().numpy(), y.double().numpy()

    def kernel(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * np.mean([[kernel(a, b) for b in y] for a in x])


def plain_precision_recall(generated, real, k):
    def distances(a, b):
        return np.sqrt(((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(-1))

    def share(points, reference):
        radii = np.sort(distances(reference, reference), axis=1)[:, k]
        return (distances(points, reference) <= radii).any(1).mean()

    generated, real = generated.numpy(), real.numpy()
    return share(generated, real), share(real, generated)


# --- Frechet distance ---


def test_frechet_distance_of_gaussians_in_closed_form():
    """Diagonal covariances commute: the distance is |m1 - m2|^2 + sum (sqrt s - sqrt t)^2."""
    mean, other_mean = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 0, 4])
    s, t = torch.tensor([1.0, 4, 9]), torch.tensor([16.0, 4, 1])
    distance = frechet_distance(mean, torch.diag(s), other_mean, torch.diag(t))
    assert distance == pytest.approx(5 + 9 + 0 + 4, abs=1e-12)
    rotation = torch.linalg.qr(features_of(3, 3, 0).double()).Q
    turned = frechet_distance(
        rotation @ mean.double(),
        rotation @ torch.diag(s).double() @ rotation.T,
        rotation @ other_mean.double(),
        rotation @ torch.diag(t).double() @ rotation.T,
    )
    assert turned == pytest.approx(18, abs=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """[[2, 1], [1, 2]] and diag(1, 4): tr (S T)^(1/2) = sqrt(tr ST + 2 sqrt det ST) in two dimensions."""
    s, t = torch.tensor([[2.0, 1], [1, 2]]), torch.diag(torch.tensor([1.0, 4]))
    expected = 4 + 5 - 2 * (10 + 2 * 12**0.5) ** 0.5
    assert frechet_distance(torch.zeros(2), s, torch.zeros(2), t) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("count", "size"), [(200, 10), (12, 30)], ids=["full rank", "rank-deficient"])
def test_fid_equals_numpy(count, size):
    x, y = features_of(count, size, 1), features_of(count + 3, size, 2, 1.5, 0.3)
    report = distribution_report(bank_of(x), bank_of(y))
    # SciPy's root of a singular product is good to about the root of the rounding error only.
    assert report["fid"] == pytest.approx(plain_frechet(x, y), rel=1e-10 if count > size else 1e-5)


def test_fid_of_a_set_with_itself_is_zero_also_without_full_rank():
    bank = bank_of(features_of(20, 50, 0))
    assert frechet_distance(bank.mean(), bank.covariance(), bank.mean(), bank.covariance()) < 1e-10


def test_covariances_of_zero():
    nothing = torch.zeros(4, 4)
    assert frechet_distance(torch.zeros(4), nothing, torch.ones(4), nothing) == 4
    assert frechet_distance(torch.zeros(4), nothing, torch.ones(4), torch.eye(4)) == 8


class Flat(nn.Module):
    """A net that torchmetrics takes for FID and KID: 12 features of 3x4x4 images."""

    num_features = 12

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(features_of(48, 12, 5) / 7)

    def forward(self, images):
        assert images.is_floating_point() and images.max() <= 1  # a net of one's own gets floats with normalize=True
        return images.flatten(1).to(self.weight.dtype) @ self.weight


def test_fid_and_kid_equal_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    net = Flat()
    real = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    fake = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(2)) ** 1.3
    fid = FrechetInceptionDistance(feature=net, normalize=True, input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    whole = KernelInceptionDistance(feature=net, normalize=True, subsets=3, subset_size=60)
    for metric in (fid, whole):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    with torch.no_grad():
        banks = bank_of(net(fake)), bank_of(net(real))
    report = distribution_report(*banks)
    assert report["fid"] == pytest.approx(float(fid.compute()), rel=1e-5)
    mean, _ = whole.compute()  # subsets of everything: nothing is random
    assert report["kid_mean"] == pytest.approx(float(mean), rel=1e-4)
    assert report["kid_std"] == 0


# --- KID ---


def test_kid_by_hand():
    """One feature of -1, 0 and 1: the kernel (x y + 1)^3 is 0, 1 or 8."""
    x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([[-1.0], [0.0]])
    assert kid(x, y) == (8 + 1 - 2 * (0 + 1) / 2, 0.0)


def test_kid_equals_the_double_sums():
    x, y = features_of(15, 6, 1), features_of(15, 6, 2, 1.2, 0.4)
    mean, std = kid(x, y)
    assert mean == pytest.approx(plain_mmd(x, y), rel=1e-12)
    assert std == 0


def test_kid_of_subsets():
    x, y = features_of(300, 8, 1), features_of(200, 8, 2, 1.0, 0.5)
    mean, std = kid(x, y, subsets=40, subset_size=50)
    whole, _ = kid(x[:200], y)
    assert 0 < std < 1 and mean == pytest.approx(whole, abs=3 * std)
    assert kid(x, y, subsets=40, subset_size=50) == (mean, std) != kid(x, y, subsets=40, subset_size=50, seed=1)
    assert kid(x, y, subsets=5)[1] > 0  # of 200 among 300


def test_kid_is_unbiased():
    """Its mean over many samples of one distribution is 0, and single ones are below."""
    values = [kid(features_of(20, 4, seed), features_of(20, 4, 1000 + seed))[0] for seed in range(300)]
    assert min(values) < 0 and abs(np.mean(values)) < 3 * np.std(values) / 300**0.5


# --- precision and recall ---


def test_precision_and_recall_by_hand():
    """On a line with k = 1: the real balls are [-1, 1], [0, 2] and [1, 19]; what lies on an edge is inside."""
    real = torch.tensor([[0.0], [1.0], [10.0]])
    generated = torch.tensor([[1.5], [2.0], [30.0], [-1.2], [-1.0]])
    precision, recall = precision_recall(generated, real, k=1)
    assert precision == pytest.approx(3 / 5)  # 1.5, 2 and -1
    assert recall == pytest.approx(2 / 3)  # generated balls: [1, 2], [1.5, 2.5], [2, 58], [-1.4, -1], [-1.2, -0.8]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_precision_and_recall_equal_brute_force(k, seed):
    generated, real = features_of(150, 3, seed, 0.7, 0.2), features_of(120, 3, seed + 10)
    found = precision_recall(generated, real, k)
    assert found == pytest.approx(plain_precision_recall(generated, real, k), abs=1e-12)
    assert found[0] > found[1]  # narrower than the real ones


def test_blocks_do_not_matter(monkeypatch):
    generated, real = features_of(70, 4, 0), features_of(90, 4, 1)
    whole = precision_recall(generated, real)
    monkeypatch.setattr("m2o_fast.metrics.distribution._ROWS", 16)
    assert precision_recall(generated, real) == whole == pytest.approx(plain_precision_recall(generated, real, 3))


def test_copies_of_the_real_images_are_precise_even_where_radii_are_zero():
    """Matrix products make a distance of 1e-7 of what is 0; a set of doubles must not fall to that."""
    base = features_of(20, 2048, 0, 1.0, 5.0)
    real = base.repeat(5, 1)  # every radius with k = 3 is 0
    assert precision_recall(base, real) == (1, 1)
    assert precision_recall(features_of(20, 2048, 1, 1.0, 5.0), real)[0] == 0


# --- the bank ---


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 60), st.integers(1, 60), st.integers(2, 70), st.integers(0, 2**31))
def test_batches_order_and_merging_do_not_matter(count, batch, keep, seed):
    features, numbers = features_of(count, 3, seed), torch.arange(count) * 7
    whole = bank_of(features, numbers, keep=keep)
    order = torch.randperm(count)
    shuffled = bank_of(features[order], numbers[order], batch, keep=keep)
    parts = [bank_of(features[rank::3], numbers[rank::3], batch, keep=keep) for rank in range(3)]
    merged = FeatureBank(3, keep)
    for part in reversed(parts):
        merged.merge_state(part.state())
    for other in (shuffled, merged):
        assert other.count == count
        assert torch.equal(other.kept(), whole.kept())
        assert torch.allclose(other.mean(), features.double().mean(0), atol=1e-12)
        assert torch.allclose(other.covariance(), torch.cov(features.double().T), atol=1e-10)
    assert len(whole.kept()) == min(keep, count)


def test_kept_features_are_a_fair_random_choice():
    numbers = torch.arange(3000)
    features = numbers[:, None].float()
    kept = bank_of(features, numbers, keep=1000).kept().flatten().long()
    assert torch.equal(kept, kept.sort().values)
    assert (kept < 1500).sum() == pytest.approx(500, abs=60)
    assert (kept % 2 == 0).sum() == pytest.approx(500, abs=60)
    other = bank_of(features, numbers, keep=1000, seed=1).kept().flatten().long()
    assert len(np.intersect1d(kept, other)) == pytest.approx(333, abs=60)
    assert set(bank_of(features, numbers, keep=500).kept().flatten().tolist()) < set(kept.tolist())


def test_a_state_does_not_change_afterwards():
    bank = bank_of(features_of(5, 2, 0))
    taken = bank.state()
    state = {name: tensor.clone() for name, tensor in taken.items()}
    bank.update(features_of(5, 2, 1), torch.arange(5, 10))
    assert all(torch.equal(taken[name], state[name]) for name in state)


def test_statistics_come_back_from_a_file(tmp_path):
    bank = bank_of(features_of(30, 4, 0), keep=10, seed=3)
    about = {"extractor_sha256": "ab", "features": 4}
    bank.save(tmp_path / "deep" / "real.safetensors", about)
    back = FeatureBank.load(tmp_path / "deep" / "real.safetensors", about)
    assert (back.count, back.size, back.keep, back.seed) == (30, 4, 10, 3)
    assert torch.equal(back.kept(), bank.kept()) and torch.equal(back.covariance(), bank.covariance())
    with pytest.raises(UserError, match="other features"):
        FeatureBank.load(tmp_path / "deep" / "real.safetensors", {**about, "features": 5})
    (tmp_path / "bad").write_bytes(b"no statistics")
    for name in ("bad", "none"):
        with pytest.raises(UserError, match=f"{name}: no usable statistics"):
            FeatureBank.load(tmp_path / name, about)


@pytest.mark.parametrize("damage", ["fewer features", "longer features", "no counts", "another number", "size"])
def test_statistics_that_do_not_fit_together_are_refused(damage, tmp_path):
    path = tmp_path / "real.safetensors"
    bank_of(features_of(30, 4, 0), keep=10, seed=3).save(path, {})
    with safe_open(str(path), "pt") as file:
        facts, state = json.loads(file.metadata()["features"]), {name: file.get_tensor(name) for name in file.keys()}
    if damage == "fewer features":
        state["features"] = state["features"][:5].contiguous()
    elif damage == "longer features":
        state["features"] = torch.zeros(10, 5)
    elif damage == "no counts":
        del state["numbers"]
    elif damage == "another number":
        state["products"][0, 0] += 1e-9
    else:
        facts["settings"]["size"] = 10**9  # whose second moments no memory can hold
    path.write_bytes(save(state, {"features": json.dumps(facts)}))
    with pytest.raises(UserError, match="no usable statistics"):
        FeatureBank.load(path, {})


def test_report_warns_of_few_images():
    few, some, many = (FeatureBank(4, keep=3000) for _ in range(3))
    for bank, count in ((few, 4), (some, 100), (many, 5000)):
        bank.update(features_of(count, 4, count), torch.arange(count))
    assert distribution_warnings(many, many) == [
        f"KID, precision and recall are of 3000 of 5000 {name} images" for name in ("generated", "real")
    ]
    (warning,) = distribution_warnings(few, many)[:1]
    assert "4 generated images for 4 features" in warning and "singular" in warning
    assert "100 real images, fewer than 2048" in distribution_warnings(many, some)[1]


def test_wrong_input_is_refused_in_words():
    bank = FeatureBank(4)
    with pytest.raises(ValueError, match=r"features must be \[n, 4\]"):
        bank.update(torch.zeros(2, 5), torch.arange(2))
    with pytest.raises(ValueError, match=r"numbers \[n\]"):
        bank.update(torch.zeros(2, 4), torch.arange(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        bank.update(torch.full((2, 4), torch.nan), torch.arange(2))
    with pytest.raises(ValueError, match="no features"):
        bank.mean()
    bank.update(torch.zeros(1, 4), torch.tensor([3]))
    with pytest.raises(ValueError, match="at least 2"):
        bank.covariance()
    bank.update(torch.zeros(1, 4), torch.tensor([3]))
    with pytest.raises(ValueError, match="image 3 came twice"):
        bank.kept()
    with pytest.raises(ValueError, match="size 5 do not fit 4"):
        bank.merge_state(FeatureBank(5).state())
    with pytest.raises(ValueError, match="cannot be compared"):
        distribution_report(bank_of(features_of(9, 4, 0)), bank_of(features_of(9, 5, 0)))
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="at least 2 features of each set"):
        kid(torch.zeros(1, 2), torch.zeros(9, 2))
    for arguments in ((0,), (3, 1)):
        with pytest.raises(ValueError, match="needs size >= 1"):
            FeatureBank(*arguments)


def test_a_bank_can_be_filled_in_inference_mode_and_read_outside():
    features, numbers = torch.rand(40, 3), torch.arange(40)
    with torch.inference_mode():
        bank = FeatureBank(3, keep=10)
        bank.update(features * 1, numbers)
    other = FeatureBank(3, keep=10)
    other.update(features, numbers)
    assert torch.equal(bank.kept(), other.kept()) and torch.equal(bank.covariance(), other.covariance())
    bank.update(features, numbers + 40)
    assert bank.count == 80 and len(bank.kept()) == 10


def test_features_that_are_too_long_for_a_covariance_are_refused() -> None:
    with pytest.raises(UserError, match="gives 700000 numbers for each image.*at most 16384 can be taken; pool them"):
        FeatureBank(700_000)
