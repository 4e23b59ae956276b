"""Whether the extractor `own` orders damaged copies of real images as it should: the table of docs/metrics.md.

    python benchmarks/own_extractor.py            # prints the table, in some minutes of one core

Real images are compared with others of the same kind, whole or damaged: digits in random colours (32 x 32), and patches
of 32 x 32 pixels of the two photographs that come with scikit-learn, from the fields of a chessboard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from m2o_fast.data.digits import load_digits
from m2o_fast.metrics import Extractor, FeatureBank, distribution_report
from m2o_fast.metrics.own_net import OwnNet, blur, train_own_net

SIDE, STRIDE, BLOCK = 32, 8, 64
Kinds = tuple[Tensor, Tensor]  # images in [0, 1], and what each shows


def digits(split: str) -> Kinds:
    """Digits in random colours, by class."""
    gray, labels = load_digits(split, SIDE)
    colors = torch.rand((len(gray), 3, 1, 1), generator=torch.Generator().manual_seed(len(gray)))
    return gray.float() / 255 * colors, labels


def patches(split: str) -> Kinds:
    """Patches of photographs, by photograph; from every other block of a chessboard, so that no two splits overlap."""
    found, labels = [], []
    for number, picture in enumerate(load_sample_images().images):
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        blocks = values.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)  # [3, rows, columns, BLOCK, BLOCK]
        rows, columns = torch.meshgrid(torch.arange(blocks.shape[1]), torch.arange(blocks.shape[2]), indexing="ij")
        chosen = blocks[:, (rows + columns) % 2 == (split == "test")]
        tiles = chosen.unfold(2, SIDE, STRIDE).unfold(3, SIDE, STRIDE).permute(1, 2, 3, 0, 4, 5).flatten(0, 2)
        found.append(tiles)
        labels.append(torch.full((len(tiles),), number))
    return torch.cat(found).contiguous(), torch.cat(labels)


def blurred(sigma: float) -> Callable[[Kinds], Tensor]:
    return lambda kinds: blur(kinds[0], torch.full((len(kinds[0]),), sigma))


def noisy(deviation: float) -> Callable[[Kinds], Tensor]:
    def damage(kinds: Kinds) -> Tensor:
        noise = torch.randn(kinds[0].shape, generator=torch.Generator().manual_seed(0))
        return (kinds[0] + noise * deviation).clamp(0, 1)

    return damage


def shifted(share: float) -> Callable[[Kinds], Tensor]:
    factors = torch.tensor([1 + share, 1, 1 - share])[:, None, None]
    return lambda kinds: (kinds[0] * factors).clamp(0, 1)


def fewer(share: float) -> Callable[[Kinds], Tensor]:
    """Images of the first kinds alone, each as often as makes up for the others."""

    def damage(kinds: Kinds) -> Tensor:
        left = kinds[0][kinds[1] < max(1, round(share * (int(kinds[1].max()) + 1)))]
        return left.repeat(-(-len(kinds[0]) // len(left)), 1, 1, 1)[: len(kinds[0])]

    return damage


DAMAGES: dict[str, Callable[[Kinds], Tensor]] = {
    "none": lambda kinds: kinds[0],
    **{f"blur, {sigma} pixels": blurred(sigma) for sigma in (0.5, 1.0, 2.0)},
    **{f"noise, {deviation}": noisy(deviation) for deviation in (0.02, 0.05, 0.1)},
    **{f"colours, ±{share:.0%}": shifted(share) for share in (0.1, 0.2, 0.4)},
    **{f"{share:.0%} of the kinds": fewer(share) for share in (0.5, 0.2)},
}


def extractor_of(real: Tensor) -> Extractor:
    """`own`, trained on real images; the seed makes no difference to what is shown here."""
    net, _ = train_own_net([(real * 255).round().to(torch.uint8)], SIDE)
    net.eval()
    assert isinstance(net, OwnNet)
    return Extractor(net.features, name="own", sha256="", input_size=SIDE)


def bank_of(extractor: Extractor, images: Tensor) -> FeatureBank:
    """The features of images of 8 bits."""
    bank = FeatureBank(extractor.size)
    for numbers in torch.arange(len(images)).split(500):
        bank.update(extractor((images[numbers] * 255).round() / 255), numbers)
    return bank


def measured(train: Kinds, test: Kinds) -> dict[str, dict[str, float]]:
    """Damage -> the numbers of damaged test images against training images."""
    extractor = extractor_of(train[0])
    real = bank_of(extractor, train[0])
    return {name: distribution_report(bank_of(extractor, damage(test)), real) for name, damage in DAMAGES.items()}


def main() -> None:
    """Prints the table."""
    found = [measured(load("train"), load("test")) for load in (digits, patches)]
    print("| damage | digits: FID | KID | precision | recall | patches: FID | KID | precision | recall |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in DAMAGES:
        cells = ["{fid:.3g} | {kid_mean:.3g} | {precision:.2f} | {recall:.2f}".format_map(one[name]) for one in found]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
