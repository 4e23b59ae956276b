"""Translating image files with a trained translator."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from m2o_fast.data.cache import named
from m2o_fast.data.fit import Fit, padded_box
from m2o_fast.data.images import InMemory, image_grid, pillow_images, read_sized, save_picture, shown_size_of, to_pillow
from m2o_fast.data.label_maps import read_label_map
from m2o_fast.data.layout import list_images
from m2o_fast.engine.evaluation.options import images_at_once
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.image_stream import ImageStream
from m2o_fast.engine.looks import Request, styles_of
from m2o_fast.engine.memory import is_out_of_memory
from m2o_fast.engine.movies import check_movie, is_movie, save_movie
from m2o_fast.engine.outputs import is_made, keep_inputs, notes_of, places
from m2o_fast.errors import UserError
from m2o_fast.files import is_full, remove_leftovers
from m2o_fast.labels import draw_labels, pictures
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Translator

_FITTED = {"stretch": "stretched to squares", "crop": "cut to the squares in their middle", "pad": "padded to squares"}
#: frames of an interpolation: in a strip, and in a moving picture
_FRAMES, _MOVIE_FRAMES = 8, 60


class Done(NamedTuple):
    """What became of the images.

    Attributes:
        written: How many files were written.
        failures: A line for each image of a folder that could not be read, or its translation written.
        kept: How many were there already.
    """

    written: int
    failures: list[str]
    kept: int = 0


@torch.inference_mode()
def translate_path(
    translator: Translator, images: Path, out: Path, request: Request, meter: Meter | None = None
) -> Done:
    """Translates one image file, or every image file of a folder and of those below it, and writes PNG files.

    A fully convolutional system translates images as they are, of any height and width; for others they become squares
    of the size that they were trained with, as the request says. A warning tells how many were none.

    Label maps are read from class numbers (gray or indexed files) or palette colours, and written in palette colours.
    Several images go through the nets at a time; how many changes a translation by rounding only.

    Args:
        translator: In evaluation mode.
        images: The file or folder.
        out: The file to write, or the folder for the files (always a folder if ``images`` is one), which gets the
            subfolders of ``images``. What lies there already is not taken for an input. For an interpolation of one
            image it may be a ``.gif`` or ``.mp4`` file.
        request: What to make of them.
        meter: Tells how far it is.

    Raises:
        UserError: The request does not fit the translator, a single image or the reference cannot be read, its output
            cannot be written, an output would overwrite an input, or the disk is full.
    """
    source, target = chosen_direction(translator, request.target, request.source)
    is_folder = images.is_dir()
    if request.resume and not is_folder:
        raise UserError(f"--resume goes on with a folder of images, and {images} is none; leave it out")
    outputs = places(list_images(images), out, into_folder=is_folder or out.is_dir())
    keep_inputs([*outputs, *request.references()], outputs.values())
    movie = out if request.interpolate and not is_folder and is_movie(out) else None
    if movie:
        check_movie(movie)
    frames = request.frames or (_MOVIE_FRAMES if movie else _FRAMES)
    styles = styles_of(
        translator,
        target,
        request,
        frames,
        lambda file: read_domain_image(file, target, translator.image_size, request.fit)[0],
    )
    work = _Work(translator, source, target, styles, request)
    try:
        if movie:
            work.animate(images, movie)
            return Done(1, [])
        notes = notes_of(outputs, work.note()) if is_folder else {}
        made = {file for file, to in outputs.items() if request.resume and is_made(to, notes.get(file))}
        for folder in {to.parent for to in outputs.values()} if request.resume else ():
            remove_leftovers(folder)
        missing = {file: to for file, to in outputs.items() if file not in made}
        failures = work.translate(missing, notes, meter or Meter(False))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: lower --batch-size (now {work.rows}), or make the images smaller") from error
    if failures and not is_folder:
        raise UserError(failures[0])
    return Done(len(missing) - len(failures), failures, len(outputs) - len(missing))


def chosen_direction(translator: Translator, to: str, source: str | None) -> tuple[Domain, Domain]:
    """The source and target domain that these names mean; ``None``: the only other one.

    Raises:
        UserError: It was not learned, or several were.
        ValueError: There is no domain of such a name.
    """
    target = translator.domain(to)
    learned = [(translator.domain(a), translator.domain(b)) for a, b in translator.directions()]
    sources = [a for a, b in learned if b == target]
    asked = None if source is None else translator.domain(source)
    others = [domain for domain in sources if domain != target]
    if not others or asked not in (None, *sources):
        ways = named([f"{a.name} -> {b.name}" for a, b in learned if a != b], ", ")
        way = f"a way into {target.name}" if asked is None else f"{asked.name} -> {target.name}"
        raise UserError(f"{way} was not learned; what was: {ways}")
    if asked is not None:
        return asked, target
    if len(others) != 1:
        names = ", ".join(domain.name for domain in others)
        raise UserError(f"say with --from which domain the images are of; besides {target.name!r} there are {names}")
    return others[0], target


# --- sizes ---


class Picture(NamedTuple):
    """An image file as the nets take it.

    Attributes:
        file: The file.
        shown: Its width and height.
        values: Float ``[1, C, S, S]``, or its own height and width padded to multiples, in [-1, 1].
    """

    file: Path | InMemory
    shown: tuple[int, int]
    values: Tensor


def prepared(file: Path | InMemory, translator: Translator, domain: Domain, fit: Fit) -> Picture:
    """An image file of a domain, made a square or padded as a system needs it; :func:`restored` is the way back.

    Raises:
        UserError: It cannot be read.
    """
    if translator.multiple is None:
        values, shown = read_domain_image(file, domain, translator.image_size, fit)
        return Picture(file, shown, values)
    values, shown = read_domain_image(file, domain, None, fit)
    return Picture(file, shown, padded(values, translator.multiple))


def restored(
    tile: Tensor, shown: tuple[int, int], translator: Translator, domain: Domain, fit: Fit, *, keep_size: bool
) -> Tensor:
    """A translation of an image without what was padded, and on demand of its size.

    Args:
        tile: Picture of a domain, ``[c, H, W]``, as large as what the nets took.
        shown: Width and height of the image.
        translator: Tells what sizes it takes.
        domain: The domain of the tile; label maps are scaled by taking the nearest pixel.
        fit: How the image became a square. Of what was cut off, nothing comes back.
        keep_size: Scale squares to the size of the image, or of the square in its middle.
    """
    width, height = shown
    if translator.multiple is not None:
        return tile[:, :height, :width]
    if not keep_size:
        return tile
    if fit == "pad":
        left, top, right, bottom = padded_box(shown, translator.image_size)
        tile = tile[:, top:bottom, left:right]
    elif fit == "crop":
        width = height = min(shown)
    if domain.kind != "continuous":
        return F.interpolate(tile[None], (height, width), mode="nearest-exact")[0]
    return F.interpolate(tile[None], (height, width), mode="bilinear", antialias=True)[0]


def read_domain_image(
    file: Path | InMemory, domain: Domain, size: int | None, fit: Fit
) -> tuple[Tensor, tuple[int, int]]:
    """An image file as one of a domain, float ``[1, C, S, S]``, or ``[1, C, H, W]`` of its own size, in [-1, 1].

    And its width and height.
    """
    if domain.kind == "continuous":
        return read_sized(file, domain.channels, size, fit)
    labels = read_label_map(file, domain.classes, size, fit)
    return draw_labels(labels, domain.kind, domain.classes) * 2 - 1, shown_size_of(file)


def padded(image: Tensor, multiple: int) -> Tensor:
    """``image`` with height and width that are multiples: mirrored below and on the right, or its edge repeated."""
    down, right = (-side % multiple for side in image.shape[2:])
    mirrored = down < image.shape[2] and right < image.shape[3]
    return F.pad(image, (0, right, 0, down), mode="reflect" if mirrored else "replicate")


# --- the work ---


class _Work:
    """Translates image files from a domain into another, each with the same styles.

    Attributes:
        rows: The most translations that were made at a time.
    """

    def __init__(
        self, translator: Translator, source: Domain, target: Domain, styles: Tensor, request: Request
    ) -> None:
        self._translator, self._source, self._target = translator, source, target
        self._styles, self._request = styles, request
        self._device = next(translator.parameters()).device
        self._shown: dict[Path, tuple[int, int]] = {}
        self.rows = 1

    def translate(self, outputs: Mapping[Path, Path], notes: Mapping[Path, str], meter: Meter) -> list[str]:
        """Writes PNG files, and returns a line for each image that cannot be read, or its translation written.

        Raises:
            UserError: No file can be written any more; says how many were.
        """
        meter.expect(len(outputs))
        styles = len(self._styles)
        stream = ImageStream(self._shape, self._read_for_file, lambda shape: max(1, self._at_once(shape) // styles))
        written: list[Path] = []

        def save(made: Sequence[tuple[Picture, Tensor]]) -> None:
            for (picture, tiles), finished in zip(made, self._at_one_go(made), strict=True):
                file = cast(Path, picture.file)
                try:
                    save_picture(finished or self._finished(picture, tiles), outputs[file], notes.get(file))
                except UserError as error:
                    if len(outputs) > 1 and is_full(error.__cause__):
                        count = f"{len(written)} of {len(outputs)} images were written; --resume goes on from there"
                        raise UserError(f"{error}; {count}") from error
                    stream.failures[file] = str(error)
                else:
                    written.append(file)

        with stream, meter.stage("translating", len(outputs)) as advance:
            for batch in stream.batches(list(outputs)):
                tiles = torch.cat(list(self._blocks(torch.cat([picture.values for picture in batch]))), dim=1)
                stream.write(save, list(zip(batch, tiles, strict=True)))
                advance(len(batch))
        self._warn_of_shapes()
        return [stream.failures[file] for file in outputs if file in stream.failures]

    def animate(self, file: Path, out: Path) -> None:
        """Writes one image with one style after the other as a moving picture."""
        picture = self._read(file)
        tiles = (tile for block in self._blocks(picture.values) for tile in block[0])
        save_movie((to_pillow(self._restored(tile, picture, self._target)) for tile in tiles), out)
        self._warn_of_shapes()

    def note(self) -> str:
        """What tells files of the same nets and request."""
        digest = hashlib.sha256()
        for name, tensor in sorted({**self._translator.state_dict(), "styles": self._styles}.items()):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        asked = self._request
        ways = [self._source.name, self._target.name, asked.is_grid, asked.keep_size, asked.fit]
        # settings that no weight tells, as the steps of a solver, stand in the description
        digest.update(json.dumps([*ways, self._translator.describe()]).encode())
        return digest.hexdigest()

    def _shape(self, file: Path) -> tuple[int, int]:
        """Height and width that the nets get."""
        multiple, side = self._translator.multiple, self._translator.image_size
        if multiple is None:
            return side, side
        width, height = shown_size_of(file)
        return height + -height % multiple, width + -width % multiple

    def _read(self, file: Path) -> Picture:
        picture = prepared(file, self._translator, self._source, self._request.fit)
        self._shown[file] = picture.shown
        return picture

    def _read_for_file(self, file: Path) -> Picture:
        """Raises ``UserError`` where images side by side would make a file that is too large to be read again."""
        picture = self._read(file)
        if not self._request.is_grid or not Image.MAX_IMAGE_PIXELS:
            return picture
        tile = torch.empty(1, *picture.values.shape[2:], device="meta")
        fit, keep = self._request.fit, self._request.keep_size
        height, width = restored(tile, picture.shown, self._translator, self._source, fit, keep_size=keep).shape[1:]
        images = 1 + len(self._styles)
        if images * height * width > Image.MAX_IMAGE_PIXELS:
            raise UserError(
                f"{picture.file}: {images} images of {width} x {height} pixels side by side have more than "
                f"{Image.MAX_IMAGE_PIXELS:,} pixels; ask for fewer looks, or leave --keep-size out"
            )
        return picture

    def _at_once(self, shape: tuple[int, int]) -> int:
        return self._request.batch_size or images_at_once(shape[0] * shape[1], self._device)

    def _blocks(self, images: Tensor) -> Iterator[Tensor]:
        """Pictures ``[N, k, c, H, W]`` on the CPU of images ``[N, C, H, W]``, each with some of the styles."""
        height, width = images.shape[2:]
        images = images.to(self._device)
        for some in self._styles.split(max(1, self._at_once((height, width)) // len(images))):
            self.rows = max(self.rows, len(images) * len(some))
            made = self._translator.translate(
                images.repeat_interleave(len(some), 0),
                self._source.name,
                self._target.name,
                style=some.repeat(len(images), *[1] * (some.ndim - 1)),
            )
            yield pictures(made, self._target).unflatten(0, (len(images), len(some))).cpu()

    def _at_one_go(self, made: Sequence[tuple[Picture, Tensor]]) -> Sequence[Image.Image | None]:
        """Translations that are to be cut at most; ``None`` for those that :meth:`_finished` makes by itself."""
        by_itself = self._request.is_grid or self._request.keep_size or len(made) == 1
        if by_itself or not (tiles := torch.stack([tiles[0] for _, tiles in made])).isfinite().all():
            return [None] * len(made)
        found = pillow_images(tiles)
        if self._translator.multiple is None:
            return found
        return [tile.crop((0, 0, *picture.shown)) for tile, (picture, _) in zip(found, made, strict=True)]

    def _finished(self, picture: Picture, tiles: Tensor) -> Image.Image:
        """The translation, or the source image and its translations in a row."""
        row = [self._restored(tile, picture, self._target) for tile in tiles]
        if not self._request.is_grid:
            return to_pillow(row[0])
        image = self._restored(pictures(picture.values, self._source)[0], picture, self._source)
        return to_pillow(image_grid([image, *row]))

    def _restored(self, tile: Tensor, picture: Picture, domain: Domain) -> Tensor:
        if not tile.isfinite().all():
            advice = "" if self._request.psi is None else "take a smaller --psi; or "
            raise UserError(
                f"{picture.file}: its translation has values that are not finite: {advice}the weights are those of a "
                "training that went wrong, take an earlier checkpoint"
            )
        request = self._request
        return restored(tile, picture.shown, self._translator, domain, request.fit, keep_size=request.keep_size)

    def _warn_of_shapes(self) -> None:
        odd = [file for file, (width, height) in self._shown.items() if width != height]
        if odd and self._translator.multiple is None:
            size, fit = self._translator.image_size, self._request.fit
            what = f"{_FITTED[fit]} of {size} x {size}, as in training (data.fit {fit})"
            warnings.warn(f"{len(odd)} of {len(self._shown)} images not square: {what}", RuntimeWarning, stacklevel=4)
