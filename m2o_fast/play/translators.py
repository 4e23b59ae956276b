"""What the page can do with one run: images to pick, and translations as PNG files that hold their styles."""

from __future__ import annotations

import io
import json
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from m2o_fast.data.fit import Fit
from m2o_fast.data.images import InMemory, opened, to_pillow
from m2o_fast.engine.build import open_split
from m2o_fast.engine.config import load_config
from m2o_fast.engine.looks import drawn, on_the_way
from m2o_fast.engine.memory import is_out_of_memory
from m2o_fast.engine.model_folder import is_model
from m2o_fast.engine.runs import (
    CONFIG,
    find_checkpoint,
    fit_of,
    load_translator,
    local,
    newest_run,
    run_of,
    warn_of_damage,
)
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.translate import padded, read_domain_image
from m2o_fast.errors import UserError
from m2o_fast.labels import pictures
from m2o_fast.play.directions import main_directions
from m2o_fast.play.looks import Look, Picture
from m2o_fast.translators.base import Translator

MOST_PIXELS = 25_000_000  # of an image to be decoded here
LONGEST = 512  # pixels: what systems of any size translate is made smaller, so that the page answers at once
_KEPT_STYLE = 1024  # numbers: a longer style is an image of noise, which its seed tells


class Player:
    """A translator and what the page shows of it. Requests of several browsers take turns.

    Args:
        name: What the page calls it.
        place: What ``m2o-fast translate --run`` takes.
        translator: In evaluation mode, on its device.
        fit: How images become squares for a system that is bound to one size.
        samples: For each domain, images to pick from: float ``[n, C, S, S]`` in [-1, 1].
    """

    def __init__(self, name: str, place: str, translator: Translator, fit: Fit, samples: Mapping[str, Tensor]) -> None:
        self.name, self._place, self._translator, self._fit, self._samples = name, place, translator, fit, samples
        self._device = next(translator.parameters()).device
        self._directions: dict[tuple[str, str], Tensor] = {}
        self._turn, self._finding = threading.Lock(), threading.Lock()
        domains = translator.domains
        self._ways = {(domains[a].name, domains[b].name): b for a, b in translator.directions() if a != b}

    def facts(self) -> dict[str, Any]:
        """What the page has to know, as JSON values."""
        translator = self._translator
        return {
            "name": self.name,
            "domains": [
                {"name": domain.name, "samples": len(self._samples.get(domain.name, ()))}
                for domain in translator.domains
            ],
            "directions": [
                {
                    "source": source,
                    "target": target,
                    "style": translator.has_style(b),
                    "reference": translator.has_style(b) and translator.reads_style(b),
                }
                for (source, target), b in self._ways.items()
            ],
        }

    def sample(self, domain: str, number: int) -> bytes:
        """An image to pick, as a PNG file.

        Raises:
            UserError: There is none of this number.
        """
        samples = self._samples.get(domain)
        if samples is None or not 0 <= number < len(samples):
            raise UserError(f"{self.name} has no image {number} of {domain:.40} to pick")
        return _png(self._shown(samples[number : number + 1], domain))

    def slides(self, source: str, target: str) -> int:
        """How many main directions the styles of a target have; the first time they are looked for, which takes time.

        Raises:
            UserError: The run has not learned this direction, or memory does not suffice.
        """
        self._check(source, target)
        with _enough_memory("there are no sliders"):
            return len(self._directions_of(source, target))

    @torch.inference_mode()
    def translate(self, image: Picture, source: str, target: str, looks: Sequence[Look]) -> list[bytes]:
        """One image with several looks, a PNG file for each; its text ``m2o_fast`` tells how to make it again.

        Args:
            image: An image file. What was drawn gets the size that the run was trained with.
            source: Name of its domain.
            target: Name of the domain to translate into.
            looks: The styles.

        Raises:
            UserError: The image cannot be read, the run has not learned this direction, memory does not suffice, or the
                translation is not finite.
        """
        self._check(source, target)
        with _enough_memory("take a smaller image, or fewer looks"):
            styles, outputs = self._translated(image, source, target, looks)
        files = []
        for look, style, output in zip(looks, styles, outputs, strict=True):
            facts = {"run": self.name, "source": source, "target": target, "look": look.facts()}
            if self._translator.has_style(target) and style.numel() <= _KEPT_STYLE:
                facts["style"] = style.flatten().tolist()
            files.append(_png(self._shown(output[None], target), facts))
        return files

    def command(self, source: str, target: str, look: Look) -> str | None:
        """The command that translates with this look; ``None``: there is none for slides, and for what lies between."""
        words = ["m2o-fast", "translate", "IMAGE", "--run", self._place, "--from", source, "--to", target]
        if self._translator.has_style(target):
            if any(look.slides) or look.other is not None:
                return None
            words += ["--seed", str(look.seed)] if look.reference is None else ["--reference", "REFERENCE"]
        return shlex.join([*words, "--out", "OUT.png"])

    def _check(self, source: str, target: str) -> None:
        if (source, target) not in self._ways:
            raise UserError(f"{self.name} has not learned {source:.40} to {target:.40}")

    def _translated(self, image: Picture, source: str, target: str, looks: Sequence[Look]) -> tuple[Tensor, Tensor]:
        """The styles of the looks, and the translations with them: ``[n, C, H, W]``."""
        x = self._image(image, source)
        height, width = x.shape[2:]
        x = padded(x, self._translator.multiple or 1).to(self._device)
        if any(any(end.slides) for look in looks for end in (look, look.other) if end is not None):
            self._directions_of(source, target)
        with self._turn:
            styles = torch.cat([self._style(look, source, target) for look in looks]).to(self._device)
            made = self._translator.translate_many(x, source, target, styles[None])[0]
        if not made.isfinite().all():
            raise UserError(f"{self.name} gives values that are not finite: its training went wrong; take another step")
        return styles, made[:, :, :height, :width]

    def _image(self, image: Picture, domain: str) -> Tensor:
        """Float ``[1, C, H, W]`` in [-1, 1]."""
        size = None if self._translator.multiple is not None and not image.drawn else self._translator.image_size
        x, _ = read_domain_image(_bounded("the image", image.file), self._translator.domain(domain), size, self._fit)
        if max(x.shape[2:]) <= LONGEST or size is not None:
            return x
        sides = [max(1, round(side * LONGEST / max(x.shape[2:]))) for side in x.shape[2:]]
        if self._translator.domain(domain).kind != "continuous":
            return F.interpolate(x, sides, mode="nearest-exact")
        return F.interpolate(x, sides, mode="bilinear", antialias=True).clamp(-1, 1)

    def _style(self, look: Look, source: str, target: str) -> Tensor:
        """``[1, *style_shape]``."""
        translator = self._translator
        if not translator.has_style(target):
            return translator.sample_style(1, target)
        if look.other is not None:
            one, other = (self._style(end, source, target) for end in (look.plain(), look.other))
            share = torch.tensor([look.share], dtype=torch.float64)
            return on_the_way(one, other, share, spherical=translator.normal_styles)
        domain = translator.domain(target)
        if look.reference is None:
            style = drawn(translator, domain, look.seed)
        elif not translator.reads_style(target):
            raise UserError(f"{self.name} reads no styles off images of {target}")
        else:
            file = _bounded("the reference", look.reference)
            reference = read_domain_image(file, domain, translator.image_size, self._fit)[0]
            style = translator.encode_style(reference.to(self._device), target)
        for slide, direction in zip(look.slides, self._directions.get((source, target), ()), strict=False):
            style = style + slide * direction.to(style)
        return style

    def _directions_of(self, source: str, target: str) -> Tensor:
        """The main directions of the styles, found once for each direction of translation."""
        with self._finding:  # whoever asks for the same meanwhile waits, but others have their turn
            if (source, target) not in self._directions:
                size, channels = self._translator.image_size, self._translator.domain(source).channels
                samples = self._samples.get(source)
                image = samples[:1] if samples is not None else torch.zeros(1, channels, size, size)
                found = main_directions(self._translator, image.to(self._device), source, target, self._turn)
                self._directions[source, target] = found
        return self._directions[source, target]

    def _shown(self, image: Tensor, domain: str) -> Tensor:
        return pictures(image, self._translator.domain(domain))


@contextmanager
def _enough_memory(advice: str) -> Iterator[None]:
    """Says in a sentence that there was not."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: {advice}") from error


def open_players(runs: Sequence[Path], device: str, checkpoint: str | None) -> list[Player]:
    """A player for each run, checkpoint, converted weights or published model; of none, for the newest run.

    Raises:
        UserError: One of them cannot be loaded.
    """
    players: list[Player] = []
    for path in runs or [newest_run()]:
        place = local(path) or path
        if is_model(place):
            translator = load_translator(place, device, checkpoint)
            players.append(Player(str(path), str(path), translator, fit_of(place), {}))
            continue
        folder, manifest, problems = find_checkpoint(path, checkpoint)
        warn_of_damage(problems, folder)
        translator = load_translator(folder, device)
        name = f"{path}, step {manifest['step']:,}"
        players.append(Player(name, str(folder), translator, fit_of(folder), _samples(run_of(folder), translator)))
    return players


def _samples(run: Path | None, translator: Translator) -> dict[str, Tensor]:
    """Test images that stand for each domain; none where the data is not here."""
    if run is None:
        return {}
    try:
        images = SampleGrid(open_split(load_config(run / CONFIG), "test"), translator, seed=0).images
    except (UserError, OSError):
        return {}
    return {domain.name: some for domain, some in zip(translator.domains, images, strict=True)}


def _bounded(name: str, data: bytes) -> InMemory:
    """The image as a file, if it is none that takes gigabytes to decode.

    Raises:
        UserError: It has too many pixels, or is no image.
    """
    file = InMemory(name, data)
    with opened(file) as found:
        if found.width * found.height > MOST_PIXELS:
            raise UserError(f"{name}: {found.width} x {found.height} pixels are too many here; make it smaller")
    return file


def _png(image: Tensor, facts: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file, in memory alone."""
    text = PngInfo()
    if facts is not None:
        text.add_text("m2o_fast", json.dumps(facts))
    file = io.BytesIO()
    to_pillow(image).save(file, format="PNG", pnginfo=text)
    return file.getvalue()
