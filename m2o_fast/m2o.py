"""The asymmetric framework itself: which domains exist and which rules the uni-modal ones follow.

Source: arXiv 2402.12531 (HMU, HMS). Everything here is pure data: no tensors, no networks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Domain:
    """One image domain.

    Attributes:
        name: Letters, digits, ``-`` and ``_``; used on the command line, in tables and in file names.
        channels: Image channels, e.g. 1 for gray, 3 for colour.
        multimodal: ``True`` if one content has many images in this domain (a digit in any colour);
            ``False`` if the image is a function of its content (the black-and-white digit).
        kind: What the channels hold: ``"continuous"`` intensities; ``"palette"``, a label map drawn in 3 channels with
            one colour per class; ``"onehot"``, a label map with one channel per class, in which the networks give class
            probabilities.
        classes: Of a label map: number of classes, void included. With ``"onehot"`` it is the number of channels and
            may be left out. 0 for continuous images.
    """

    name: str
    channels: int = 3
    multimodal: bool = True
    kind: Literal["continuous", "palette", "onehot"] = "continuous"
    classes: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"domain name {self.name!r}: use letters, digits, '-' and '_' only")
        if self.channels < 1:
            raise ValueError(f"domain {self.name!r}: channels must be at least 1, got {self.channels}")
        if self.kind == "onehot" and self.classes == 0:
            object.__setattr__(self, "classes", self.channels)
        self._check_kind()

    def _check_kind(self) -> None:
        match self.kind:
            case "continuous":
                problem = "continuous images have no classes" if self.classes else ""
            case "palette":
                problem = (
                    "" if self.channels == 3 and self.classes >= 2 else "needs 3 channels and its number of classes"
                )
            case "onehot":
                problem = "" if self.channels == self.classes >= 2 else "needs as many channels as classes"
            case _:
                problem = "kind must be 'continuous', 'palette' or 'onehot'"
        if problem:
            got = f"{self.kind!r} with {self.channels} channels, {self.classes} classes"
            raise ValueError(f"domain {self.name!r}: {problem}, got {got}")


@dataclass(frozen=True)
class ManyToOne:
    """The many-to-one rules. All switched off (:meth:`symmetric`), the plain base model remains.

    Attributes:
        domain_layers: ``"stem"`` gives every domain its own first and last layers around a shared trunk; ``"block"``
            the blocks next to them, too; ``"adapter"`` puts 1x1 layers of every domain in front of a net and behind
            it, which has first and last layers of its own; ``None`` makes all domains share them, which needs equal
            channel counts.
        zero_style: Uni-modal domains have no style: their style vector is exactly 0 and they own no
            style heads.
        diversity_on_multimodal_only: The diversity loss is taken for multi-modal targets only.
        supervised_weight: Weight of the supervised loss on uni-modal targets whose pair is known; 0 hides
            the pairs.
    """

    domain_layers: Literal["stem", "block", "adapter"] | None = "stem"
    zero_style: bool = True
    diversity_on_multimodal_only: bool = True
    supervised_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.supervised_weight < 0:
            raise ValueError(f"supervised_weight must not be negative, got {self.supervised_weight}")

    @classmethod
    def symmetric(cls) -> ManyToOne:
        """Every rule off: the base model as published."""
        return cls(domain_layers=None, zero_style=False, diversity_on_multimodal_only=False)

    def has_style(self, domain: Domain) -> bool:
        """Whether images of ``domain`` are steered by a style vector (else it is exactly 0)."""
        return domain.multimodal or not self.zero_style

    def rewards_diversity(self, domain: Domain) -> bool:
        """Whether the diversity loss applies to translations into ``domain``."""
        return self.has_style(domain) and (domain.multimodal or not self.diversity_on_multimodal_only)

    def supervises(self, domain: Domain) -> bool:
        """Whether known pairs supervise translations into ``domain``."""
        return self.supervised_weight > 0 and not domain.multimodal

    def resolve(self, domains: Sequence[Domain]) -> tuple[Domain, ...]:
        """The domains as the networks see them: with shared first and last layers, all take the widest channel count.

        A 1-channel image then enters with its channel repeated.
        """
        names = [domain.name for domain in domains]
        if len(set(names)) != len(names):
            raise ValueError(f"domain names must differ, got {names}")
        if len(names) < 2:
            raise ValueError(f"a translator needs at least two domains, got {names}")
        if not any(self.has_style(domain) for domain in domains):
            raise ValueError("no domain has a style: many-to-one translation needs at least one multi-modal domain")
        if self.supervised_weight > 0 and all(domain.multimodal for domain in domains):
            raise ValueError("the supervised loss needs a uni-modal domain, but every domain is multi-modal")
        if self.domain_layers is not None:
            return tuple(domains)
        widest = max(domain.channels for domain in domains)
        for domain in domains:
            if domain.channels not in (1, widest):
                raise ValueError(
                    f"shared first and last layers need equal channel counts, but domain {domain.name!r} has "
                    f"{domain.channels} and another has {widest}; use domain_layers='stem'"
                )
        return tuple(replace(domain, channels=widest) for domain in domains)


#: the base model as published; the rules without pairs; the rules with pairs
PLAIN, UNPAIRED, PAIRED = "plain", "hmu", "hms"
#: name of a variant -> its rules, where a system has none of its own. Variants are values of one code path, no copies.
VARIANTS: dict[str, ManyToOne] = {
    PLAIN: ManyToOne.symmetric(),
    UNPAIRED: ManyToOne(),
    PAIRED: ManyToOne(supervised_weight=1.0),
}
