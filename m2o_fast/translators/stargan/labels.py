"""Label vectors (arXiv 1711.09020, section 3.2).

A number for each domain, and of several label sets one more for each of them, the mask: 1 for the set whose labels are
known, 0 for the others, whose labels are 0, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.translators.stargan.settings import Labels


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


def with_styles(labels: Tensor, counts: Sequence[int], styles: Mapping[int, Tensor], style_dim: int) -> Tensor:
    """Label vectors, and the styles of samples beside them; exactly 0 for domains without style."""
    zeros = labels.new_zeros((max(counts), style_dim))
    rows = [styles[k] if k in styles else zeros[:count] for k, count in enumerate(counts)]
    return torch.cat([labels, torch.cat([row.to(labels.dtype) for row in rows])], dim=1)


def classification_error(logits: Tensor, counts: Sequence[int], sets: Sequence[int], kinds: Sequence[Labels]) -> Tensor:
    """How far logits are from the labels of the domains of one label set, mean over the samples.

    Args:
        logits: Float ``[N, domains]`` of samples grouped by domain; those of the other sets are not looked at.
        counts: How many there are of each domain, all of one set.
        sets: How many domains each set has.
        kinds: Of each set: ``"independent"`` labels may be given together: binary cross-entropy, summed over them;
            ``"exclusive"`` ones may not: cross-entropy.

    Raises:
        ValueError: The samples are of several sets, or there are none.
    """
    present = [number for number, domains in enumerate(domains_of(sets)) if any(counts[k] for k in domains)]
    if len(present) != 1:
        raise ValueError(f"samples must be of one of the label sets of {list(sets)} domains, there are {list(counts)}")
    domains = domains_of(sets)[present[0]]
    own = slice(domains.start, domains.stop)
    logits, counts = logits[:, own], counts[own]
    labels = of_domains(counts, [len(counts)], logits)
    if kinds[present[0]] == "independent":
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / logits.shape[0]
    return -(labels * logits.log_softmax(dim=1)).sum() / logits.shape[0]
