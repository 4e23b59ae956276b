"""Names that would be pairs but for a letter: what to say where few images have a partner."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import product

_FEW = 0.5  # share of the images with a partner below which something is said
_ENDINGS = ("real", "fake", "a", "b")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def near_misses(names: Mapping[str, Sequence[str]], uni: Collection[str]) -> list[str]:
    """Sentences on multi-modal and uni-modal domains of which few images have a partner, and more nearly have one.

    Args:
        names: Domain -> the paths of its images below its folder, without suffix.
        uni: Names of the uni-modal domains.
    """
    others = [name for name in names if name not in uni]
    found = (nearly_pairs(source, names[source], target, names[target]) for source, target in product(others, uni))
    return [f"{sentence}: rename one of each, or say it in pairs.csv" for sentence in found if sentence]


def nearly_pairs(source: str, first: Sequence[str], target: str, second: Sequence[str]) -> str:
    """A sentence where few images of one name have a partner, and more nearly have one; else nothing.

    Args:
        source: What messages call the images of ``first``.
        first: Their paths without suffix.
        target: What messages call the others.
        second: Their paths without suffix.
    """
    partners = set(second)
    endings = "|".join(map(re.escape, (*_ENDINGS, source, target)))
    without_ending = partial(re.compile(rf"[ _-]({endings})$", re.IGNORECASE).sub, "")
    exact = sum(name in partners for name in first)
    if exact >= _FEW * min(len(first), len(second)):
        return ""
    for what, plain in (
        ("letter case", str.casefold),
        ("endings such as _real and _fake", without_ending),
        ("letter case and endings such as _real and _fake", lambda name: without_ending(name).casefold()),
        ("zeros in front", partial(_ZEROS.sub, "")),
        ("subfolders", lambda name: name[name.rfind("/") + 1 :]),
    ):
        there = {plain(name): name for name in second}
        nearly = [(name, there[plain(name)]) for name in first if plain(name) in there]
        if len(nearly) > exact:
            one, other = next(pair for pair in nearly if pair[0] not in partners)
            return (
                f"{exact} of {len(first)} images of {source} have the name of an image of {target}, but {len(nearly)} "
                f"would without {what}, such as {one!r} and {other!r}"
            )
    return ""
