"""What the page can do with one run: images to pick, and translations as PNG files that hold their styles."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from m2o_fast.data.fit import Fit
from m2o_fast.data.images import InMemory, to_pillow
from m2o_fast.engine.build import open_split
from m2o_fast.engine.config import load_config
from m2o_fast.engine.looks import on_the_way
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
from m2o_fast.engine.samples import chosen_images
from m2o_fast.engine.translate import padded, read_domain_image
from m2o_fast.errors import UserError
from m2o_fast.labels import pictures
from m2o_fast.play.directions import main_directions
from m2o_fast.play.looks import Look
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

SAMPLES = 12  # images to pick from, of each domain
LONGEST = 512  # pixels: what systems of any size translate is made smaller, so that the page answers at once
_KEPT_STYLE = 1024  # numbers: a longer style is an image of noise, which its seed tells


class Player:
    """A translator and what the page shows of it. Requests of several browsers take turns.

    Args:
        name: What the page calls it.
        translator: In evaluation mode, on its device.
        fit: How images become squares for a system that is bound to one size.
        samples: For each domain, images to pick from: float ``[n, C, S, S]`` in [-1, 1].
    """

    def __init__(self, name: str, translator: Translator, fit: Fit, samples: Mapping[str, Tensor]) -> None:
        self.name, self._translator, self._fit, self._samples = name, translator, fit, samples
        self._device = next(translator.parameters()).device
        self._directions: dict[tuple[str, str], Tensor] = {}
        self._turn = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """What the page has to know, as JSON values."""
        domains = self._translator.domains
        return {
            "name": self.name,
            "system": self._translator.describe()["system"],
            "size": self._translator.image_size,
            "domains": [
                {
                    "name": domain.name,
                    "gray": domain.kind == "continuous" and domain.channels == 1,
                    "samples": len(self._samples.get(domain.name, ())),
                }
                for domain in domains
            ],
            "directions": [
                {
                    "source": domains[a].name,
                    "target": domains[b].name,
                    "style": self._translator.has_style(b),
                    "reference": self._translator.has_style(b) and self._translator.reads_style(b),
                    "slides": self._slides(domains[a].name, domains[b].name),
                }
                for a, b in self._translator.directions()
                if a != b
            ],
        }

    def sample(self, domain: str, number: int) -> bytes:
        """An image to pick, as a PNG file.

        Raises:
            UserError: There is none of this number.
        """
        return _png(self._shown(self._sample(domain, number), domain))

    @torch.inference_mode()
    def translate(self, image: Any, source: str, target: str, looks: Sequence[Look]) -> list[bytes]:
        """One image with several looks, a PNG file for each; its text ``m2o_fast`` tells how to make it again.

        Args:
            image: ``{"sample": number}``, or the bytes of an image file.
            source: Name of its domain.
            target: Name of the domain to translate into.
            looks: The styles.

        Raises:
            UserError: The image cannot be read, or the run has not learned this direction.
        """
        known = [(way["source"], way["target"]) for way in self.facts()["directions"]]
        if (source, target) not in known:
            raise UserError(f"{self.name} has not learned {source} to {target}")
        x = self._image(image, source)
        height, width = x.shape[2:]
        x = padded(x, self._translator.multiple or 1).to(self._device)
        with self._turn:
            styles = torch.cat([self._style(look, source, target) for look in looks]).to(self._device)
            made = self._translator.translate_many(x, source, target, styles[None])[0]
        files = []
        for look, style, output in zip(looks, styles, made, strict=True):
            facts = {"run": self.name, "source": source, "target": target, "look": look.facts()}
            if self._translator.has_style(target) and style.numel() <= _KEPT_STYLE:
                facts["style"] = style.flatten().tolist()
            files.append(_png(self._shown(output[None, :, :height, :width], target), facts))
        return files

    def _image(self, image: Any, domain: str) -> Tensor:
        """Float ``[1, C, H, W]`` in [-1, 1]."""
        if isinstance(image, Mapping):
            return self._sample(domain, image["sample"])
        size = self._translator.image_size if self._translator.multiple is None else None
        x, _ = read_domain_image(InMemory("the image", image), self._translator.domain(domain), size, self._fit)
        if max(x.shape[2:]) <= LONGEST or size is not None:
            return x
        sides = [max(1, round(side * LONGEST / max(x.shape[2:]))) for side in x.shape[2:]]
        if self._translator.domain(domain).kind != "continuous":
            return F.interpolate(x, sides, mode="nearest-exact")
        return F.interpolate(x, sides, mode="bilinear", antialias=True).clamp(-1, 1)

    def _sample(self, domain: str, number: int) -> Tensor:
        samples = self._samples.get(domain)
        if samples is None or not 0 <= number < len(samples):
            raise UserError(f"{self.name} has no image {number} of {domain} to pick")
        return samples[number : number + 1]

    def _style(self, look: Look, source: str, target: str) -> Tensor:
        """``[1, *style_shape]``."""
        translator = self._translator
        if not translator.has_style(target):
            return translator.sample_style(1, target)
        if look.other is not None:
            one, other = (self._style(end, source, target) for end in (look.plain(), look.other))
            share = torch.tensor([look.share], dtype=torch.float64)
            return on_the_way(one, other, share, spherical=translator.normal_styles)
        if look.reference is None:
            # the same draws as m2o-fast translate --seed
            style = translator.sample_style(1, target, torch_generator(look.seed, "translate", 0))
        elif not translator.reads_style(target):
            raise UserError(f"{self.name} reads no styles off images of {target}")
        else:
            reference = self._reference(look.reference, target)
            style = translator.encode_style(reference.to(self._device), target)
        directions = self._directions_of(source, target)
        for slide, direction in zip(look.slides, directions, strict=False):
            style = style + slide * direction.to(style)
        return style

    def _reference(self, image: Any, target: str) -> Tensor:
        """An image of the size that styles are read off."""
        if isinstance(image, Mapping):
            return self._sample(target, image["sample"])
        domain = self._translator.domain(target)
        return read_domain_image(InMemory("the reference", image), domain, self._translator.image_size, self._fit)[0]

    def _slides(self, source: str, target: str) -> int:
        return len(self._directions_of(source, target))

    def _directions_of(self, source: str, target: str) -> Tensor:
        """The main directions of the styles, found once for each direction of translation."""
        if (source, target) not in self._directions:
            size, channels = self._translator.image_size, self._translator.domain(source).channels
            samples = self._samples.get(source)
            image = samples[:1] if samples is not None else torch.zeros(1, channels, size, size)
            found = main_directions(self._translator, image.to(self._device), source, target)
            self._directions[source, target] = found
        return self._directions[source, target]

    def _shown(self, image: Tensor, domain: str) -> Tensor:
        return pictures(image, self._translator.domain(domain))


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
            players.append(Player(str(path), translator, fit_of(place), {}))
            continue
        folder, manifest, problems = find_checkpoint(path, checkpoint)
        warn_of_damage(problems, folder)
        translator = load_translator(folder, device)
        name = f"{path}, step {manifest['step']:,}"
        players.append(Player(name, translator, fit_of(path), _samples(run_of(folder), translator)))
    return players


def _samples(run: Path | None, translator: Translator) -> dict[str, Tensor]:
    """Test images that stand for each domain; none where the data is not here."""
    if run is None:
        return {}
    try:
        dataset = open_split(load_config(run / CONFIG), "test")
    except (UserError, OSError):
        return {}
    found = {}
    for k, domain in enumerate(translator.domains):
        images = dataset.images(k, chosen_images(dataset, k, SAMPLES)) * 2 - 1
        found[domain.name] = images.expand(-1, domain.channels, -1, -1).contiguous()
    return found


def _png(image: Tensor, facts: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file, in memory alone."""
    text = PngInfo()
    if facts is not None:
        text.add_text("m2o_fast", json.dumps(facts))
    file = io.BytesIO()
    to_pillow(image).save(file, format="PNG", pnginfo=text)
    return file.getvalue()
