"""Building what a configuration describes: its data, its batches, its translator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from m2o_fast.data import Augment, BatchSampler, Dataset, open_dataset
from m2o_fast.data.cache import Report, named, silent
from m2o_fast.data.contents import contents_of, shared_contents
from m2o_fast.data.folder import names_apart
from m2o_fast.data.layout import list_domains, splits_of
from m2o_fast.data.settings import DataConfig
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import PLAIN, Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import create
from m2o_fast.translators.base import Translator


def open_split(
    config: Config, split: str, data_dir: str | Sequence[str] | None = None, report: Report = silent
) -> Dataset:
    """The ``"train"`` or ``"test"`` images of a configuration.

    Args:
        config: The configuration.
        split: Which images.
        data_dir: What replaces its folder, or its folders, as many as it has.
        report: Called with a line of text for what takes long.

    Raises:
        UserError: The data cannot be used.
    """
    data = config.data
    directory, *also = _replaced(data, data_dir)
    return open_dataset(
        data.name,
        split="train" if split == "train" else "test",
        data_dir=directory,
        also=also,
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


def _replaced(data: DataConfig, data_dir: str | Sequence[str] | None) -> tuple[str | None, *tuple[str, ...]]:
    """The folders of data, which others may replace."""
    if not data_dir:
        return data.dir, *data.also
    first, *others = [data_dir] if isinstance(data_dir, str) else data_dir
    if len(others) != len(data.also):
        raise UserError(
            f"--data-dir names {1 + len(others)} in the place of {1 + len(data.also)} data folders; name one for each "
            f"of {', '.join(data.folders)}, in this order"
        )
    return first, *others


def is_own_data(run: Path, manifest: Mapping[str, Any], config: Config, data_dir: str | Sequence[str] | None) -> bool:
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
    if not data_dir:
        where = " and ".join(config.data.folders)
        raise UserError(
            f"the {split} images of {config.data.name!r} in {where} are not those that {run} was begun with; name the "
            "right folder with --data-dir (to measure on this one all the same, name it with --data-dir)"
        )
    return False


def build_samplers(config: Config, dataset: Dataset, translator: Translator) -> list[BatchSampler]:
    """The training batches of a configuration, those of each turn: what the translator asks for, and no more.

    Raises:
        UserError: It learns from pairs, and none are known.
    """
    pairs = translator.paired_directions()
    if pairs and not dataset.has_pairs(pairs):
        share = f"data.pair_fraction {config.data.pair_fraction} of {dataset.count(0)} images"
        raise _no_pairs(config, f"{share} is none; raise it" if config.data.pair_fraction < 1 else _NONE)
    return [
        BatchSampler(
            dataset,
            translator.domains,
            config.batch_size,
            config.seed,
            directions=directions,
            pairs=pairs,
            references=translator.references(),
            augment=Augment(config.data.crop_probability, config.data.flip_probability, config.data.crop_law),
        )
        for directions in translator.turns()
    ]


_NONE = (
    "the data has none: --uni (data.uni) names the domains with one image for each content; other images that show it "
    "have its name, lie in a subfolder of its name, or are in its row of pairs.csv. Mend one of these"
)


def _no_pairs(config: Config, why: str) -> UserError:
    return UserError(f"{config.learner} learns from known pairs, but {why}{config.way_out}")


def build_translator(config: Config, domains: tuple[Domain, ...], sets: Sequence[int] = ()) -> Translator:
    """A translator with fresh weights, which depend on the seed alone.

    Args:
        config: What to train.
        domains: Those of the data.
        sets: How many of them, in their order, are of each data set; none: all of one.

    Raises:
        UserError: The domains are not what the system or the variant is for.
    """
    check_domains(config, domains)
    size = config.data.image_size
    described = config.filled().settings.description(config.rules.resolve(domains), config.rules, size)
    if len(sets) > 1:
        described |= {"label_sets": list(sets)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.seed, "weights").initial_seed())
        return create({"system": config.system, **described})


def check_listing(config: Config) -> None:
    """Raises ``UserError`` where the names of folders tell already, before an image is read, that training is refused.

    What images alone tell, :func:`build_translator` sees.
    """
    folders = [Path(folder) for folder in config.data.folders]
    if config.data.name != "folder" or not folders:
        return
    names = names_apart(folders)
    together = [name for own in names.values() for name in own]
    if not set(config.data.uni) <= set(together):  # opening the data says what is wrong
        return
    check_domains(config, [Domain(name, multimodal=name not in config.data.uni) for name in together])
    if config.facts.learns_from_pairs(config.variant):
        uni = {folder: set(config.data.uni) & set(own) for folder, own in names.items()}
        into = names if config.facts.needs_pairs else uni  # rules alone supervise translations into uni-modal domains
        if not any(_shows_the_same(folder, uni[folder], set(into[folder])) for folder in names):
            raise _no_pairs(config, _NONE)


def _shows_the_same(folder: Path, uni: Collection[str], into: set[str]) -> bool:
    """Whether two domains of own images, one of them ``into``, have a content in common in what is trained on."""
    listing = list_domains(folder, splits_of(folder))
    contents = contents_of(folder, listing, uni, "train" if "train" in listing else "test")
    return any(shared_contents(contents[a], contents[b]) for a, b in combinations(contents, 2) if {a, b} & into)


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
