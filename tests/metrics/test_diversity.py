"""LPIPS against its definition written out and torchmetrics' code; its mean over pairs."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.errors import UserError
from m2o_fast.metrics import weights
from m2o_fast.metrics.diversity import Lpips, PairwiseDistance, open_lpips

SIZES = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))


def random_states(seed=0):
    """State dicts of AlexNet and of the learned weights, by their published names."""
    generator = torch.Generator().manual_seed(seed)
    alexnet = {"classifier.1.weight": torch.ones(2, 2)}
    heads = {}
    for stage, (index, (out, into, kernel)) in enumerate(zip((0, 3, 6, 8, 10), SIZES, strict=True)):
        noise = torch.randn(out, into, kernel, kernel, generator=generator)
        alexnet[f"features.{index}.weight"] = noise * (2 / (into * kernel**2)) ** 0.5
        alexnet[f"features.{index}.bias"] = 0.1 * torch.randn(out, generator=generator)
        heads[f"lin{stage}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=generator)
    return alexnet, heads


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    alexnet, heads = random_states()
    torch.save(alexnet, folder / "alexnet.pth")
    torch.save(heads, folder / "heads.pth")
    return f"{folder / 'alexnet.pth'},{folder / 'heads.pth'}"


@pytest.fixture(scope="module")
def net(files):
    return open_lpips(files)


def plain_lpips(x, y):
    """The definition, from the state dicts: no layers, no embedding."""
    alexnet, heads = random_states()

    def stages(images):
        mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        h = ((2 * images - 1) - mean[:, None, None]) / std[:, None, None]
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            h = F.conv2d(h, alexnet[f"features.{index}.weight"], alexnet[f"features.{index}.bias"], stride, padding)
            h = h.clamp(min=0)
            yield h / h.norm(dim=1, keepdim=True).clamp(min=1e-5)
            if index in (0, 3):
                h = F.max_pool2d(h, 3, 2)

    total = 0
    for stage, (first, second) in enumerate(zip(stages(x), stages(y), strict=True)):
        weighted = heads[f"lin{stage}.model.1.weight"] * (first - second) ** 2
        total = total + weighted.sum(1).mean((1, 2))
    return total


def images_of(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_distance_equals_the_definition(net):
    x, y = images_of(3, 3, 64, 47), images_of(3, 3, 64, 47, seed=1)
    distance = net(x, y)
    assert distance.min() > 0.01
    assert torch.allclose(distance, plain_lpips(x, y), rtol=1e-4)
    assert torch.equal(net(x, x), torch.zeros(3)) and torch.equal(distance, net(y, x))


def test_distance_equals_torchmetrics(net, monkeypatch):
    from torchmetrics.functional.image import lpips

    alexnet, heads = random_states()
    features = Lpips().features
    features.load_state_dict({k.removeprefix("features."): v for k, v in alexnet.items() if k.startswith("features")})
    # torchmetrics takes the untrained net from torchvision, whose last layer is a pooling that LPIPS does not look at.
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda name, pretrained: [*features, torch.nn.Identity()])
    theirs = lpips._NoTrainLpips(net="alex", pnet_rand=True, pretrained=False, use_dropout=True)
    theirs.load_state_dict(heads, strict=False)
    for stage, head in enumerate(theirs.lins):
        assert torch.equal(head.model[1].weight, heads[f"lin{stage}.model.1.weight"])
    x, y = images_of(2, 3, 64, 64), images_of(2, 3, 64, 64, seed=1)
    assert torch.allclose(net(x, y), theirs(2 * x - 1, 2 * y - 1).flatten(), rtol=1e-4)


def test_published_heads_fit():
    """torchmetrics ships the file; the hash is the published one."""
    import torchmetrics.functional.image as image

    from m2o_fast.metrics.diversity import _fill_heads

    path = Path(image.__file__).parent / "lpips_models" / "alex.pth"
    assert weights.find_weights(str(path))[1] == weights.PUBLISHED["alex.pth"].sha256
    net = Lpips()
    _fill_heads(net, path)
    assert all(float(head.min()) >= 0 and float(head.max()) > 0 for head in net.heads)


def test_mean_over_the_pairs_by_hand():
    """With vectors in place of a net: three outputs at 0, 1 and 3 have squared distances 1, 9 and 4."""

    class Line:
        def embed(self, images):
            return images.flatten(1)

    distance = PairwiseDistance(Line())
    values = distance.update(torch.tensor([[0.0, 1, 3], [2, 2, 2]]).reshape(2, 3, 1, 1, 1))
    assert values.tolist() == pytest.approx([14 / 3, 0]) and distance.compute() == pytest.approx(7 / 3)


def test_ten_outputs_make_45_pairs(net):
    outputs = images_of(2, 10, 3, 32, 32)
    pairs = [plain_lpips(outputs[:, i], outputs[:, j]) for i, j in combinations(range(10), 2)]
    assert len(pairs) == 45
    distance = PairwiseDistance(net)
    assert torch.allclose(distance.update(outputs).float(), torch.stack(pairs).mean(0), rtol=1e-4)
    assert distance.compute() == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-4)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 7), st.integers(1, 7))
def test_batches_and_merging_do_not_matter(count, batch):
    net = Lpips()
    outputs = images_of(count, 3, 1, 31, 33, seed=count)
    whole, cut, merged = (PairwiseDistance(net) for _ in range(3))
    whole.update(outputs)
    for part in outputs.split(batch):
        cut.update(part)
    merged.update(outputs[:1])
    rest = PairwiseDistance(net)
    rest.update(outputs[1:])
    merged.merge_state(rest.state())
    for other in (cut, merged):
        assert other.sources == count
        assert other.compute() == pytest.approx(whole.compute(), rel=1e-5)


def test_gray_images_are_repeated(net):
    x, y = images_of(1, 1, 32, 32), images_of(1, 1, 32, 32, seed=1)
    assert torch.equal(net(x, y), net(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)))


def test_files_that_do_not_fit(files, tmp_path):
    alexnet, heads = random_states()
    good, good_heads = files.split(",")
    torch.save({**alexnet, "features.0.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"vgg.pth: the weights do not fit: 0.weight is \[64, 3, 3, 3\] instead of"):
        open_lpips(f"{tmp_path / 'vgg.pth'},{good_heads}")
    torch.save({**heads, "lin5.model.1.weight": torch.ones(1)}, tmp_path / "six.pth")
    with pytest.raises(UserError, match="six.pth: the weights do not fit: superfluous lin5"):
        open_lpips(f"{good},{tmp_path / 'six.pth'}")
    torch.save({name: tensor - 0.5 for name, tensor in heads.items()}, tmp_path / "negative.pth")
    with pytest.raises(UserError, match="negative.pth: LPIPS weights must not be negative"):
        open_lpips(f"{good},{tmp_path / 'negative.pth'}")
    with pytest.raises(UserError, match="alex.pth: no such file. Add --download .*v0.1/alex.pth"):
        open_lpips(good)


def test_wrong_input_is_refused_in_words(net):
    with pytest.raises(ValueError, match=r"at least 31x31 pixels, got \[1, 3, 30, 40\]"):
        net.embed(torch.zeros(1, 3, 30, 40))
    with pytest.raises(ValueError, match=r"\[N, 1 or 3, H, W\], got torch.uint8"):
        net.embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    distance = PairwiseDistance(net)
    with pytest.raises(ValueError, match="no outputs"):
        distance.compute()
    with pytest.raises(ValueError, match=r"\[n, M >= 2, C, H, W\]"):
        distance.update(torch.zeros(2, 1, 3, 32, 32))
