"""Whether the extractor `own` orders damaged copies of real images as it should: the table of docs/metrics.md.

    python benchmarks/own_extractor.py            # prints the table, in some minutes of one core

Real images are compared with others of the same kind, whole or damaged: digits in random colours (32 x 32), and patches
of 32 x 32 pixels of the two photographs that come with scikit-learn, from the fields of a chessboard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from real_sets import SIDE, blocks
from torch import Tensor

from m2o_fast.data.digits import load_digits
from m2o_fast.metrics import Extractor, FeatureBank, distribution_report
from m2o_fast.metrics.own_net import OwnNet, blur, train_own_net

Kinds = tuple[Tensor, Tensor]  # images in [0, 1], and what each shows
Damage = Callable[[Kinds], Tensor | None]  # damaged images; None: these cannot be damaged so


def digits(split: str) -> Kinds:
    """Digits in random colours, by class."""
    gray, labels = load_digits(split, SIDE)
    colors = torch.rand((len(gray), 3, 1, 1), generator=torch.Generator().manual_seed(len(gray)))
    return gray.float() / 255 * colors, labels


def patches(split: str) -> Kinds:
    """Patches of photographs, by photograph; from every other block of a chessboard, so that no two splits overlap."""
    chosen = [block for block in blocks() if block.place % 2 == (split == "test")]
    pixels = np.stack([pixels for block in chosen for _, _, pixels in block.patches()])
    labels = [block.photograph for block in chosen for _ in block.patches()]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)


def blurred(sigma: float) -> Damage:
    return lambda kinds: blur(kinds[0], torch.full((len(kinds[0]),), sigma))


def noisy(deviation: float) -> Damage:
    def damage(kinds: Kinds) -> Tensor:
        noise = torch.randn(kinds[0].shape, generator=torch.Generator().manual_seed(0))
        return (kinds[0] + noise * deviation).clamp(0, 1)

    return damage


def shifted(share: float) -> Damage:
    factors = torch.tensor([1 + share, 1, 1 - share])[:, None, None]
    return lambda kinds: (kinds[0] * factors).clamp(0, 1)


def fewer(share: float) -> Damage:
    """Images of the first kinds alone, each as often as makes up for the others; of few kinds a small share is none."""

    def damage(kinds: Kinds) -> Tensor | None:
        left = kinds[0][kinds[1] < round(share * (int(kinds[1].max()) + 1))]
        if not len(left):
            return None
        return left.repeat(-(-len(kinds[0]) // len(left)), 1, 1, 1)[: len(kinds[0])]

    return damage


DAMAGES: dict[str, Damage] = {
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


def measured(train: Kinds, test: Kinds) -> dict[str, str]:
    """Damage -> the numbers of damaged test images against training images, as cells of a table."""
    extractor = extractor_of(train[0])
    real = bank_of(extractor, train[0])
    cells = {}
    for name, damage in DAMAGES.items():
        if (damaged := damage(test)) is None:
            cells[name] = "- | - | - | -"
        else:
            report = distribution_report(bank_of(extractor, damaged), real)
            cells[name] = "{fid:.3g} | {kid_mean:.3g} | {precision:.2f} | {recall:.2f}".format_map(report)
    return cells


def main() -> None:
    """Prints the table."""
    found = [measured(load("train"), load("test")) for load in (digits, patches)]
    print("| damage | digits: FID | KID | precision | recall | patches: FID | KID | precision | recall |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in DAMAGES:
        print(f"| {name} | {' | '.join(cells[name] for cells in found)} |")


if __name__ == "__main__":
    main()
