"""Building what a configuration describes: its data, its batches, its translator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from m2o_fast.data import Augment, BatchSampler, Dataset, open_dataset
from m2o_fast.data.cache import Report, named, silent
from m2o_fast.data.contents import contents_of, shared_contents
from m2o_fast.data.layout import Split, list_domains, splits_of
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import PLAIN, Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import create
from m2o_fast.translators.base import Translator


def open_split(config: Config, split: str, data_dir: str | None = None, report: Report = silent) -> Dataset:
    """The ``"train"`` or ``"test"`` images of a configuration; ``data_dir`` replaces its folder.

    ``report`` is called with a line of text for what takes long.
    """
    data = config.data
    return open_dataset(
        data.name,
        split="train" if split == "train" else "test",
        data_dir=data_dir or data.dir,
        image_size=data.image_size,
        color_law=data.color_law,
        seed=config.seed,
        pair_fraction=data.pair_fraction,
        uni=data.uni,
        labels=data.labels,
        cache=data.cache,
        max_unreadable=data.max_unreadable,
        verify=data.verify,
        fit=data.fit,
        report=report,
    )


def is_own_data(run: Path, manifest: Mapping[str, Any], config: Config, data_dir: str | None) -> bool:
    """Whether the data's folder holds the images that a run was begun with: its test images, which it is measured on.

    Args:
        run: The run.
        manifest: Manifest of a checkpoint of it; one of earlier versions knows the training images alone.
        config: Configuration of the run.
        data_dir: A folder that somebody named in place of the run's.

    Raises:
        UserError: It does not, and nobody named this folder.
    """
    if config.data.dir is None:  # data that is the same everywhere
        return True
    split, key = ("test", "test_data") if "test_data" in manifest else ("train", "data")
    fingerprint = open_split(config, split, data_dir).fingerprint
    if manifest.get(key, fingerprint) == fingerprint:
        return True
    if data_dir is None:
        raise UserError(
            f"the {split} images of {config.data.name!r} in {config.data.dir} are not those that {run} was begun with; "
            "name the right folder with --data-dir (to measure on this one all the same, name it with --data-dir)"
        )
    return False


def build_sampler(config: Config, dataset: Dataset, translator: Translator) -> BatchSampler:
    """The training batches of a configuration: what the translator asks for, and no more.

    Raises:
        UserError: It learns from pairs, and none are known.
    """
    pairs = translator.paired_directions()
    if pairs and not dataset.has_pairs(pairs):
        share = f"data.pair_fraction {config.data.pair_fraction} of {dataset.count(0)} images"
        raise _no_pairs(config, f"{share} is none; raise it" if config.data.pair_fraction < 1 else _NONE)
    return BatchSampler(
        dataset,
        translator.domains,
        config.batch_size,
        config.seed,
        directions=translator.directions(),
        pairs=pairs,
        references=translator.references(),
        augment=Augment(config.data.crop_probability, config.data.flip_probability, config.data.crop_law),
    )


_NONE = (
    "the data has none: --uni (data.uni) names the domains with one image for each content; other images that show it "
    "have its name, lie in a subfolder of its name, or are in its row of pairs.csv. Mend one of these"
)


def _no_pairs(config: Config, why: str) -> UserError:
    return UserError(f"{config.learner} learns from known pairs, but {why}{config.way_out}")


def build_translator(config: Config, domains: tuple[Domain, ...]) -> Translator:
    """A translator with fresh weights, which depend on the seed alone.

    Raises:
        UserError: The domains are not what the system or the variant is for.
    """
    check_domains(config, domains)
    size = config.data.image_size
    described = config.filled().settings.description(config.rules.resolve(domains), config.rules, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.seed, "weights").initial_seed())
        return create({"system": config.system, **described})


def check_listing(config: Config) -> None:
    """Raises ``UserError`` where the names of folders tell already, before an image is read, that training is refused.

    What images alone tell, :func:`build_translator` sees.
    """
    if config.data.name != "folder" or config.data.dir is None:
        return
    root = Path(config.data.dir)
    listing = list_domains(root, splits_of(root))
    split: Split = "train" if "train" in listing else "test"
    names = listing[split]
    if not names.keys() >= set(config.data.uni):  # opening the data says what is wrong
        return
    check_domains(config, [Domain(name, multimodal=name not in config.data.uni) for name in names])
    if config.facts.learns_from_pairs(config.variant):
        contents = contents_of(root, listing, config.data.uni, split)
        if not any(shared_contents(*two) for two in combinations(contents.values(), 2)):
            raise _no_pairs(config, _NONE)


def check_domains(config: Config, domains: Sequence[Domain]) -> None:
    """Raises ``UserError`` where the domains are not what the system or the variant is for."""
    names = ", ".join(domain.name for domain in domains)
    if config.facts.two_domains and len(domains) > 2:
        raise UserError(f"system {config.system!r} is for two domains, but the data has {len(domains)}: {names}")
    if config.rules.zero_style and len({domain.multimodal for domain in domains}) == 1:
        kind, advice = "uni-modal", "name fewer of them with --uni (data.uni)"
        if domains[0].multimodal:
            kind, advice = "multi-modal", "name those with one image for each content with --uni DOMAIN (data.uni)"
        raise UserError(
            f"{config.learner} is for multi-modal and uni-modal domains, but {names} are all {kind}; {advice}, or "
            f"train the base model without these rules: --system {config.system} --variant {PLAIN}"
        )
    try:
        config.settings.check_domains(domains, config.rules)
    except ValueError as error:
        raise UserError(str(error)) from None


def named_domains(domains: Sequence[Domain]) -> str:
    """Domains as an error shows them: ``photo (3 channels, multi-modal), sketch (1 channel, uni-modal)``."""
    shown = [
        f"{domain.name} ({domain.channels} {'channel' if domain.channels == 1 else 'channels'}, "
        f"{'multi' if domain.multimodal else 'uni'}-modal{'' if domain.kind == 'continuous' else f', {domain.kind}'})"
        for domain in domains
    ]
    return named(shown, ", ")
