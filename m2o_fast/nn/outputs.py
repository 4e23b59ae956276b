"""From a generator's last layer to images, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.losses import masked_reconstruction_error, reconstruction_error
from m2o_fast.m2o import Domain, ManyToOne


def as_image(output: Tensor, domain: Domain) -> Tensor:
    """What everybody else sees of an output ``[N, C, H, W]``: its tanh, of one-hot domains class probabilities.

    Probabilities p are 2 p - 1, so that all images are in [-1, 1].
    """
    return 2 * output.softmax(dim=1) - 1 if domain.kind == "onehot" else output.tanh()


def to_compare(output: Tensor, domain: Domain) -> Tensor:
    """What a loss that compares images takes: the image, or the logits of a one-hot domain's classes."""
    return output if domain.kind == "onehot" else output.tanh()


def restoration_error(
    outputs: Mapping[int, Tensor], images: Mapping[int, Tensor], domains: Sequence[Domain], batch_size: float
) -> Tensor:
    """How far outputs are from the images that they should give back: a scalar.

    Args:
        outputs: By domain, ``[n_k, c_k, S, S]``, before tanh or softmax.
        images: Of the same domains at least, and of one at least, so that the loss is a zero on their device where
            nothing is compared.
        domains: All of them.
        batch_size: What sums over samples are divided by.
    """
    compared = [to_compare(output, domains[k]) for k, output in outputs.items()]
    one_hot = [domains[k].kind == "onehot" for k in outputs]
    none = next(iter(images.values()))[:0]
    return reconstruction_error([*compared, none], [*(images[k] for k in outputs), none], [*one_hot, False], batch_size)


def supervised_error(
    outputs: Mapping[int, Tensor], batch: Batch, domains: Sequence[Domain], rules: ManyToOne, batch_size: float
) -> Tensor:
    """How far translations are from the known ones of ``batch`` in domains where ``rules`` supervise: a scalar.

    Args:
        outputs: By target domain, ``[target_counts[k], c_k, S, S]``, before tanh or softmax.
        batch: With ``paired`` and ``has_pair``.
        domains: All of them.
        rules: Where known translations count.
        batch_size: What sums over samples are divided by.
    """
    assert batch.has_pair is not None
    known = batch.has_pair.split(list(batch.target_counts))
    losses = [
        masked_reconstruction_error(
            to_compare(output, domains[k]), batch.paired[k], known[k], batch_size, domains[k].kind == "onehot"
        )
        for k, output in outputs.items()
        if rules.supervises(domains[k])
    ]
    return torch.stack(losses).sum() if losses else batch.source[0].new_zeros(())
