"""Inception-v3 against a straight transcript of its figure, and what its files must hold."""

import pytest
import torch
import torch.nn.functional as F

from m2o_fast.errors import UserError
from m2o_fast.metrics.inception import InceptionV3, open_inception


def plain_inception(state, images, weights):
    """Features by the names of the weights alone: no classes, no tables."""
    tf = weights == "fid"

    def conv(x, name, stride=1, padding=(0, 0)):
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        norm = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm, eps=0.001))

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=not tf)

    def block_a(x, n):
        b5 = conv(conv(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", 1, 2)
        b3 = conv(conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1), f"{n}.branch3x3dbl_3", 1, 1)
        return torch.cat([conv(x, f"{n}.branch1x1"), b5, b3, conv(average(x), f"{n}.branch_pool")], 1)

    def block_c(x, n):
        b7 = conv(conv(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", 1, (0, 3))
        b7 = conv(b7, f"{n}.branch7x7_3", 1, (3, 0))
        bd = conv(conv(x, f"{n}.branch7x7dbl_1"), f"{n}.branch7x7dbl_2", 1, (3, 0))
        bd = conv(conv(bd, f"{n}.branch7x7dbl_3", 1, (0, 3)), f"{n}.branch7x7dbl_4", 1, (3, 0))
        bd = conv(bd, f"{n}.branch7x7dbl_5", 1, (0, 3))
        return torch.cat([conv(x, f"{n}.branch1x1"), b7, bd, conv(average(x), f"{n}.branch_pool")], 1)

    def block_e(x, n, pool):
        b3 = conv(x, f"{n}.branch3x3_1")
        b3 = torch.cat([conv(b3, f"{n}.branch3x3_2a", 1, (0, 1)), conv(b3, f"{n}.branch3x3_2b", 1, (1, 0))], 1)
        bd = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1)
        bd = torch.cat([conv(bd, f"{n}.branch3x3dbl_3a", 1, (0, 1)), conv(bd, f"{n}.branch3x3dbl_3b", 1, (1, 0))], 1)
        return torch.cat([conv(x, f"{n}.branch1x1"), b3, bd, conv(pool(x), f"{n}.branch_pool")], 1)

    if tf:
        x = (images * 255 - 128) / 128
    else:
        x = torch.stack(
            [
                (images[:, channel] - mean) / std
                for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)))
            ],
            1,
        )
    x = conv(conv(conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1)
    x = conv(conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
    x = F.max_pool2d(x, 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block_a(x, name)
    n = "Mixed_6a"
    bd = conv(conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1), f"{n}.branch3x3dbl_3", 2)
    x = torch.cat([conv(x, f"{n}.branch3x3", 2), bd, F.max_pool2d(x, 3, 2)], 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = block_c(x, name)
    n = "Mixed_7a"
    b7 = conv(conv(x, f"{n}.branch7x7x3_1"), f"{n}.branch7x7x3_2", 1, (0, 3))
    b7 = conv(conv(b7, f"{n}.branch7x7x3_3", 1, (3, 0)), f"{n}.branch7x7x3_4", 2)
    x = torch.cat([conv(conv(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2", 2), b7, F.max_pool2d(x, 3, 2)], 1)
    x = block_e(x, "Mixed_7b", average)
    x = block_e(x, "Mixed_7c", (lambda y: F.max_pool2d(y, 3, 1, 1)) if tf else average)
    return x.mean((2, 3))


def random_state(weights):
    """Weights and running statistics that let every branch count."""
    generator = torch.Generator().manual_seed(3)
    net = InceptionV3(weights)
    state = {}
    for name, tensor in net.state_dict().items():
        if name.endswith("conv.weight"):
            noise = torch.randn(tensor.shape, generator=generator)
            state[name] = noise * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif name.endswith("num_batches_tracked"):
            state[name] = tensor
        else:
            state[name] = 0.1 * torch.randn(tensor.shape, generator=generator) + name.endswith("bn.weight")
    return state


@pytest.fixture(scope="module", params=["torchvision", "fid"])
def saved(request, tmp_path_factory):
    """A file as it is published, its state dict, and whose weights they are."""
    weights = request.param
    state = random_state(weights)
    published = dict(state)
    if weights == "torchvision":
        published |= {"AuxLogits.conv0.conv.weight": torch.ones(128, 768, 1, 1), "AuxLogits.fc.bias": torch.ones(1000)}
    else:
        published = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(published, path)
    return path, state, weights


@pytest.mark.parametrize(("weights", "count"), [("torchvision", 23_834_568), ("fid", 23_834_568 + 8 * 2049)])
def test_number_of_parameters(weights, count):
    """What torchvision states without the auxiliary classifier; FID's net has 8 classes more."""
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in InceptionV3(weights).parameters()) == count


@torch.no_grad()
def test_features_equal_the_transcript(saved):
    path, state, weights = saved
    net, found = open_inception(path)
    assert found == weights and not net.training
    # The smallest that leaves the last blocks more than one pixel, whose maximum is not its mean.
    images = torch.rand(2, 3, 107, 111, generator=torch.Generator().manual_seed(0))
    features = net(images)
    assert features.shape == (2, 2048)
    expected = plain_inception({name: tensor.double() for name, tensor in state.items()}, images.double(), weights)
    assert features.std() > 0.01
    assert torch.allclose(features.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    other = plain_inception(state, images, "fid" if weights == "torchvision" else "torchvision")
    assert not torch.allclose(features, other, rtol=1e-2)  # the poolings tell the two nets apart


def test_other_weights_are_refused(tmp_path):
    for name, state in {
        "no.pth": {"a": torch.ones(1)},
        "resnet.pth": {"fc.weight": torch.ones(1000, 512)},
    }.items():
        torch.save(state, tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: not Inception-v3; its fc.weight must be \[1000, 2048\]"):
            open_inception(tmp_path / name)
    torch.save({"fc.weight": torch.ones(1000, 2048)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part.pth: the weights do not fit: missing Conv2d_1a_3x3.conv.weight"):
        open_inception(tmp_path / "part.pth")
