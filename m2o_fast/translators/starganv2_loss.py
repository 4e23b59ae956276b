"""Loss weights of StarGAN v2 (arXiv 1912.01865)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StarGANv2Loss:
    """Loss weights; the supervised weight belongs to :class:`ManyToOne`.

    The last two are cheaper than the published training and give other numbers; they are off unless asked for.

    Attributes:
        r1: Weight of the R1 penalty on real images.
        style: Weight of the style reconstruction.
        cycle: Weight of the cycle reconstruction.
        diversity: Weight of the diversity reward at the start.
        diversity_steps: Iterations over which it falls linearly to 0.
        r1_every: The R1 penalty is taken in every k-th iteration alone, times k (arXiv 1912.04958, section 3.1: lazy
            regularization, here with Adam's settings unchanged).
        merge_discriminator_steps: One discriminator step per iteration in place of two: real + R1 once, and the mean of
            the losses on the latent-guided and on the reference-guided fakes.
    """

    r1: float = 1.0
    style: float = 1.0
    cycle: float = 1.0
    diversity: float = 1.0
    diversity_steps: int = 100_000
    r1_every: int = 1
    merge_discriminator_steps: bool = False

    def __post_init__(self) -> None:
        if self.r1_every < 1:
            raise ValueError(f"r1_every must be at least 1, got {self.r1_every}")
