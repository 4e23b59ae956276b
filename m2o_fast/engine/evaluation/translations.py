"""Measuring a translator on a data set: every direction between different domains, in one pass over its sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.data.cache import named
from m2o_fast.data.representative import some_of
from m2o_fast.engine.evaluation.measures import (
    Colors,
    Diversity,
    Features,
    Looks,
    Measure,
    Outputs,
    StyleIndependence,
    TrueImages,
    TrueLabels,
    Value,
    merge,
)
from m2o_fast.engine.evaluation.options import BINS, BITS, NO_STYLE, SEED, Options
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.evaluation.real import DomainImages, real_features
from m2o_fast.engine.evaluation.styles import LatentStyles, MadeUpStyles, ReferenceStyles, Styles
from m2o_fast.engine.evaluation.weightless import (
    MOST_LOOKS,
    Colorfulness,
    Content,
    Following,
    RealPictures,
    Variety,
)
from m2o_fast.engine.processes import Processes
from m2o_fast.errors import UserError
from m2o_fast.labels import pictures
from m2o_fast.metrics import ColorStatistics, FeatureBank
from m2o_fast.metrics.diversity import Lpips
from m2o_fast.metrics.features import Extractor
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator


@dataclass
class Found:
    """What an evaluation found, by direction ``"source->target"``.

    Attributes:
        directions: Direction -> guidance -> measures by name.
        details: Direction -> what lies behind its measures.
        notes: What the reader should know -> directions and guidances that it is about.
    """

    directions: dict[str, dict[str, dict[str, Value]]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, direction: str, guidance: str, measures: list[Measure]) -> None:
        """Takes down what was measured. Details are those of the first guidance."""
        values = self.directions.setdefault(direction, {}).setdefault(guidance, {})
        for measure in measures:
            values.update(measure.values())
            if len(self.directions[direction]) == 1:
                self.details.setdefault(direction, {}).update(measure.details())
            for warning in measure.warnings():
                where = direction if guidance == NO_STYLE else f"{direction} ({guidance})"
                self.notes.setdefault(warning, []).append(where)

    @property
    def warnings(self) -> list[str]:
        """What the reader should know, in sentences."""
        return [f"{', '.join(where)}: {note}" for note, where in self.notes.items()]

    def sort(self, directions: Sequence[str]) -> None:
        """Puts everything in the order of ``directions``."""
        self.directions = {name: self.directions[name] for name in directions if name in self.directions}
        self.details = {name: self.details[name] for name in directions if name in self.details}


class Evaluation:
    """Measures a translator.

    Args:
        translator: In evaluation mode, on its device.
        test: The images to translate.
        train: Opens the images that FID, KID, precision and recall compare with.
        options: What to measure.
        extractor: Of features; ``None``: nothing that needs them is measured.
        lpips: The distance of images; ``None``: no diversity.
        meter: Shows progress.
        processes: Those that share the work.
    """

    def __init__(
        self,
        translator: Translator,
        test: Dataset,
        train: Callable[[], Dataset],
        options: Options,
        *,
        extractor: Extractor | None = None,
        lpips: Lpips | None = None,
        meter: Meter | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._translator, self._test, self._train, self._options = translator, test, train, options
        self._extractor, self._lpips = extractor, lpips
        self._meter, self._processes = meter or Meter(show=False), processes or Processes()
        self._device = next(translator.parameters()).device
        self._batch = options.batch(translator.image_size, self._device)
        #: how many real images features were compared with, by domain
        self.real_images: dict[str, int] = {}
        self._made, self._seconds = 0, 0.0

    def sources(self, source: int) -> Tensor:
        """Image numbers of the sources of a domain, ascending: all, or a choice that depends on their number alone."""
        count = self._test.count(self._translator.domains[source].name)
        wanted = self._options.sources
        if wanted is None or wanted >= count:
            return torch.arange(count)
        return torch.randperm(count, generator=torch_generator(SEED, "sources", count))[:wanted].sort().values

    def evaluations(self) -> dict[str, int]:
        """How often a translation goes through its net, by target domain."""
        targets = sorted({target for source, target in self._translator.directions() if source != target})
        return {self._translator.domains[target].name: self._translator.evaluations(target) for target in targets}

    def images_per_second(self) -> float:
        """Translations that this process made in a second of translating, to three digits."""
        return float(f"{self._made / max(self._seconds, 1e-9):.3g}")

    @torch.inference_mode()
    def run(self) -> Found:
        """The measures of every direction; whole in the leading process only."""
        pairs = [(source, target) for source, target in self._translator.directions() if source != target]
        self._meter.expect(sum(self._translations(*pair) for pair in pairs))
        self._meter.expect(sum(self._looked_at(target) for target in {target for _, target in pairs}))
        found = Found()
        for target in sorted({target for _, target in pairs}):
            real = self._real(target)  # real images and references of a target are looked at once
            references = self._references(target)
            for source in sorted(a for a, b in pairs if b == target):
                self._direction(source, target, real, references, found)
        found.sort([self._name(*pair) for pair in sorted(pairs)])
        return found

    def _direction(self, source: int, target: int, real: _Real, references: Styles | None, found: Found) -> None:
        styles = self._styles(source, target, references)
        measures = {guidance: self._measures(source, target, real, part) for guidance, part in styles.items()}
        indices = self.sources(source)
        share = self._processes.share(len(indices))
        shown = self._name(source, target).replace("->", " -> ")
        with self._meter.stage(shown, self._translations(source, target)) as advance:
            for start in range(share.start, share.stop, self._batch):
                numbers = range(start, min(start + self._batch, share.stop))
                chosen = indices[numbers.start : numbers.stop]
                # With all styles at once, the content of a source is encoded once.
                every = torch.cat([part.rows(numbers) for part in styles.values()], dim=1)
                inputs, started = self._inputs(source, chosen), time.perf_counter()
                exact = self._translator.translate_many(inputs, source, target, every)
                self._check(exact, chosen, source, target)  # waits for the device
                self._seconds += time.perf_counter() - started
                self._made += len(numbers) * every.shape[1]
                for guidance, part in zip(styles, exact.chunk(len(styles), dim=1), strict=True):
                    outputs = self._outputs(part, numbers, chosen, target)
                    for measure in measures[guidance]:
                        measure.update(outputs)
                advance(len(numbers) * every.shape[1])
        for guidance, several in measures.items():
            for measure in several:
                merge(measure, self._processes)
            if self._processes.leads:
                found.add(self._name(source, target), guidance, several)

    def _translations(self, source: int, target: int) -> int:
        """How many images this process makes in one direction."""
        guidances = 1
        if self._translator.has_style(target):
            guidances = sum(g == "latent" or self._translator.reads_style(target) for g in self._options.guidances)
        return len(self._processes.share(len(self.sources(source)))) * self._drawn(target) * guidances

    def _looked_at(self, target: int) -> int:
        """How many real images this process looks at, to compare translations into a domain with."""
        return len(self._processes.share(len(self.sources(target)))) if self._is_of_looks(target) else 0

    def _is_of_looks(self, target: int) -> bool:
        """Whether a domain holds pictures of which many are right."""
        domain = self._translator.domains[target]
        return domain.multimodal and domain.kind == "continuous"

    def _drawn(self, target: int) -> int:
        """Translations of each source; of a uni-modal target the second one shows whether the style changes it."""
        if not self._translator.has_style(target):
            return MadeUpStyles(self._translator, target).count
        return self._options.outputs_per_source if self._translator.domains[target].multimodal else 2

    def _name(self, source: int, target: int) -> str:
        return f"{self._translator.domains[source].name}->{self._translator.domains[target].name}"

    # --- images ---

    def _inputs(self, domain: int, indices: Tensor) -> Tensor:
        channels = self._translator.domains[domain].channels
        images = self._test.images(self._translator.domains[domain].name, indices)
        return (images * 2 - 1).expand(-1, channels, -1, -1).to(self._device)

    def _outputs(self, exact: Tensor, numbers: range, indices: Tensor, target: int) -> Outputs:
        measured = exact if self._translator.domains[target].multimodal else exact[:, :1]
        return Outputs(
            numbers=torch.arange(numbers.start, numbers.stop),
            indices=indices,
            exact=exact,
            images=((measured.float() + 1) / 2).clamp_(0, 1),
        )

    def _check(self, exact: Tensor, indices: Tensor, source: int, target: int) -> None:
        finite = exact.isfinite().flatten(1).all(1).cpu()
        if not finite.all():
            images = named(list(map(str, indices[~finite].tolist())), ", ")
            raise UserError(
                f"{self._name(source, target)}: translations of {int((~finite).sum())} images (numbers {images}) "
                "are not finite; the weights are of no use, evaluate an earlier checkpoint with --checkpoint"
            )

    def _truth(self, source: int, target: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        domains = self._translator.domains
        pair = self._test.pair(domains[source].name, domains[target].name, indices)
        if pair is None:
            return torch.empty(0), torch.zeros(len(indices), dtype=torch.bool)
        return pair

    def _looks(self, source: int, target: int, index: int, most: int | None = None) -> Tensor:
        domains = self._translator.domains
        numbers = self._test.looks(domains[source].name, domains[target].name, index)
        return self._test.images(domains[target].name, numbers if most is None else some_of(numbers.tolist(), most))

    def _back(self, source: int, target: int, outputs: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Translations into ``target`` translated back, and their sources; in [0, 1], label maps in colours."""
        x = self._inputs(source, indices)
        style = self._translator.encode_style(x, source)
        back = self._translator.translate(outputs, target, source, style=style)
        domain = self._translator.domains[source]
        shown = [pictures(images.float(), domain).to(self._device) for images in (back, x)]
        return ((shown[0] + 1) / 2).clamp(0, 1), (shown[1] + 1) / 2

    def _is_known_back(self, source: int, target: int) -> bool:
        """Whether the way back was learned, and the style that it needs can be read off the source."""
        translator = self._translator
        known = translator.reads_style(source) or not translator.has_style(source)
        return known and (target, source) in translator.directions()

    def _content(self, indices: Tensor) -> Tensor:
        content = self._test.content(indices)
        assert content is not None
        return content

    # --- what is measured ---

    def _styles(self, source: int, target: int, references: Styles | None) -> dict[str, Styles]:
        """Guidance -> styles."""
        if not self._translator.has_style(target):
            return {NO_STYLE: MadeUpStyles(self._translator, target)}
        latent = LatentStyles(self._translator, source, target, self._drawn(target))
        known = {"latent": latent, "reference": references}
        return {guidance: styles for guidance in self._options.guidances if (styles := known[guidance]) is not None}

    def _references(self, target: int) -> Styles | None:
        if not self._translator.reads_style(target) or "reference" not in self._options.guidances:
            return None
        most = max(len(self.sources(a)) for a, b in self._translator.directions() if b == target != a)
        return ReferenceStyles(self._translator, self._test, target, self._drawn(target), self._batch, most)

    def _measures(self, source: int, target: int, real: _Real, styles: Styles) -> list[Measure]:
        domain = self._translator.domains[target]
        measures: list[Measure] = []
        if not domain.multimodal:
            truth = partial(self._truth, source, target)
            if domain.kind == "continuous":
                measures.append(TrueImages(truth))
            else:
                measures.append(TrueLabels(domain, self._test.class_names, truth))
            if self._drawn(target) > 1:
                measures.append(StyleIndependence())
        elif real.colors is not None:
            repeats = 1 if self._translator.has_style(target) else self._options.outputs_per_source
            measures.append(Colors(self._content, *real.colors, repeats=repeats))
        if real.features is not None and self._extractor is not None:
            measures.append(Features(self._extractor, real.features, self._options.fid, self._batch))
        if self._lpips is not None and domain.multimodal and self._drawn(target) > 1:
            measures.append(Diversity(self._lpips))
        if real.pictures is not None:
            measures += self._weightless(source, target, real.pictures, styles)
            measures.append(Looks(partial(self._looks, source, target), self._lpips))
        return measures

    def _weightless(self, source: int, target: int, real: RealPictures, styles: Styles) -> list[Measure]:
        measures: list[Measure] = []
        if self._drawn(target) > 1:
            looks = partial(self._looks, source, target, most=MOST_LOOKS)
            measures.append(Variety(real.variety, looks, len(self.sources(source))))
        if real.colors is not None:
            parts = round(2 * len(self.sources(source)) / len(self.sources(target)))
            measures.append(Colorfulness(real.colors, max(1, parts), self._drawn(target)))
        if isinstance(styles, ReferenceStyles) and self._drawn(target) > 1:
            measures.append(Following(styles.colors))
        if self._is_known_back(source, target):
            measures.append(Content(partial(self._back, source, target)))
        return measures

    def _real(self, target: int) -> _Real:
        """What translations into a domain are compared with."""
        domain = self._translator.domains[target]
        features = None
        if self._extractor is not None and domain.kind == "continuous":
            images = DomainImages(self._train(), domain, "train")
            self.real_images[domain.name] = images.count
            features = real_features(images, self._extractor, self._batch, self._meter, self._processes)
        known = domain.multimodal and domain.channels == 3 and self._test.content([0]) is not None
        pictures = self._real_pictures(target) if self._is_of_looks(target) else None
        return _Real(features, self._real_colors(target) if known else None, pictures)

    def _real_pictures(self, target: int) -> RealPictures:
        """Test images of the target domain."""
        numbers = self.sources(target)
        real = RealPictures(self._translator.domains[target], numbers)
        share = self._processes.share(len(numbers))
        with self._meter.stage(f"test images of {self._translator.domains[target].name}", len(share)) as advance:
            for start in range(share.start, share.stop, self._batch):
                places = range(start, min(start + self._batch, share.stop))
                real.look_at(self._test, places, self._device)
                advance(len(places))
        merge(real, self._processes)
        return real

    def _real_colors(self, target: int) -> tuple[ColorStatistics, ColorStatistics]:
        """Colours of as many real images of the sources' content as there will be translations, twice."""
        indices = self.sources(target)
        share = self._processes.share(len(indices))
        drawn = self._options.outputs_per_source
        samples = (ColorStatistics(BINS, BITS), ColorStatistics(BINS, BITS))
        for epoch in range(2 * drawn):  # in every epoch a domain with content has other images of it
            for chosen in indices[share.start : share.stop].split(self._batch):
                images = self._test.images(self._translator.domains[target].name, chosen, epoch)
                samples[epoch // drawn].update(images.to(self._device), self._content(chosen).to(self._device))
        for sample in samples:
            merge(sample, self._processes)
        return samples


class _Real(NamedTuple):
    """What translations into a domain are compared with, as far as there is something.

    Attributes:
        features: Of real images.
        colors: Of real images, and of others.
        pictures: What is told of them without weights.
    """

    features: FeatureBank | None
    colors: tuple[ColorStatistics, ColorStatistics] | None
    pictures: RealPictures | None
