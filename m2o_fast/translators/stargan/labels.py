"""Label vectors (arXiv 1711.09020, section 3.2).

A number for each domain, and of several label sets one more for each of them, the mask: 1 for the set whose labels are
known, 0 for the others, whose labels are 0, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch.nn.functional as F
from torch import Tensor


def length(sets: Sequence[int]) -> int:
    """Of a label vector, where the domains are those of label sets of these sizes."""
    return sum(sets) + (len(sets) if len(sets) > 1 else 0)


def domains_of(sets: Sequence[int]) -> list[range]:
    """The numbers of the domains of each set."""
    return [range(end - size, end) for size, end in zip(sets, accumulate(sets), strict=True)]


def of_domains(counts: Sequence[int], sets: Sequence[int], like: Tensor) -> Tensor:
    """Label vectors ``[N, length]`` of samples grouped by domain, ``counts[k]`` of them in domain k."""
    labels = like.new_zeros((sum(counts), length(sets)))
    own = domains_of(sets)
    for k, (count, end) in enumerate(zip(counts, accumulate(counts), strict=True)):
        labels[end - count : end, k].fill_(1)
        if len(sets) > 1:
            mask = next(number for number, domains in enumerate(own) if k in domains)
            labels[end - count : end, len(counts) + mask].fill_(1)
    return labels


def classification_error(logits: Tensor, counts: Sequence[int], sets: Sequence[int], *, independent: bool) -> Tensor:
    """How far logits are from the labels of the domains of one label set, mean over the samples.

    Args:
        logits: Float ``[N, domains]`` of samples grouped by domain; those of the other sets are not looked at.
        counts: How many there are of each domain, all of one set.
        sets: How many domains each set has.
        independent: Labels that may be given together: binary cross-entropy, summed over them; else cross-entropy.

    Raises:
        ValueError: The samples are of several sets, or there are none.
    """
    present = [domains for domains in domains_of(sets) if any(counts[k] for k in domains)]
    if len(present) != 1:
        raise ValueError(f"samples must be of one of the label sets of {list(sets)} domains, there are {list(counts)}")
    own = slice(present[0].start, present[0].stop)
    logits, counts = logits[:, own], counts[own]
    labels = of_domains(counts, [len(counts)], logits)
    if independent:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / logits.shape[0]
    return -(labels * logits.log_softmax(dim=1)).sum() / logits.shape[0]
