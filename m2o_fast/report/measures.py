"""What the measures of an evaluation are called, which way is better, and how their values are written."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from markupsafe import Markup

ABSENT = "\N{EN DASH}"


class Measure(NamedTuple):
    """A measure for people.

    Attributes:
        label: Its name.
        better: Which values are better; empty where neither is.
        meaning: What it says, in a line.
    """

    label: str
    better: Literal["lower", "higher", ""]
    meaning: str = ""


_KNOWN = {
    "mse": Measure("MSE", "lower", "mean squared error against the true image"),
    "psnr": Measure("PSNR", "higher", "error against the true image, in decibels"),
    "ssim": Measure("SSIM", "higher", "structural similarity to the true image"),
    "style_independent": Measure("style-independent", "", "whether the style changes not one bit of the output"),
    "pixel_accuracy": Measure("pixel accuracy", "higher", "share of the pixels with the right class"),
    "miou": Measure("mIoU", "higher", "intersection over union, mean over all classes"),
    "miou_present": Measure("mIoU (present)", "higher", "the same over the classes that occur"),
    "color_recall": Measure("Color Recall", "higher", "share of the real colours that are generated"),
    "color_recall_ceiling": Measure("Color Recall ceiling", "", "what a perfect generator would score"),
    "coverage": Measure("coverage", "higher", "share of the real colour cells that are hit at all"),
    "unique_colors": Measure("unique colours", "higher", "distinct generated colours"),
    "content_mse": Measure("content MSE", "lower", "how far an output is from its content in one colour"),
    "fid_clean": Measure("FID (clean)", "lower", "distance between generated and real features"),
    "fid_stargan2": Measure("FID (StarGAN v2)", "lower", "distance between generated and real features"),
    "kid_mean": Measure("KID", "lower", "kernel distance between generated and real features"),
    "kid_std": Measure("KID spread", "", "standard deviation over subsets"),
    "precision": Measure("precision", "higher", "share of generated images that look real"),
    "recall": Measure("recall", "higher", "share of real images that are within reach"),
    "mse_nearest": Measure("MSE to the nearest look", "lower", "mean squared error against the most alike true image"),
    "mse_looks_covered": Measure("looks covered (MSE)", "higher", "share of the looks that an output is nearest to"),
    "lpips_nearest": Measure("LPIPS to the nearest look", "lower", "distance to the most alike true image"),
    "lpips_looks_covered": Measure("looks covered (LPIPS)", "higher", "the same by LPIPS"),
    "pixel_variety": Measure("variety of looks", "higher", "how far two outputs of a source lie apart; 1: real images"),
    "structure_variety": Measure("variety of looks (structure)", "higher", "the same by MS-SSIM; 1: real images"),
    "pixel_variety_of_looks": Measure("variety of true looks", "", "what a perfect generator would score"),
    "structure_variety_of_looks": Measure("variety of true looks (structure)", "", "the same by MS-SSIM"),
    "pixel_color_recall": Measure("colours covered", "higher", "share of the real pixels' colour that is generated"),
    "pixel_color_recall_ceiling": Measure("colours covered, ceiling", "", "what other real images would score"),
    "references_followed": Measure("references followed", "higher", "nearer to the own reference; 0.5: ignored"),
    "cycle_mse": Measure("MSE there and back", "lower", "translated back, against the source"),
    "content_kept": Measure("content kept", "higher", "translated back, 1: the source, 0: like another source"),
    "lpips_diversity": Measure("LPIPS diversity", "higher", "difference between two outputs of one source"),
}
_WEIGHTLESS = ("pixel_variety", "pixel_color_recall", "references_followed", "content_kept")
#: what stands at the top of a report, the first ones that there are: with one right answer, and with many
HEADLINE = {
    True: ("mse", "psnr", "miou", "pixel_accuracy", "style_independent"),
    False: (
        "color_recall",
        "color_recall_ceiling",
        "coverage",
        "fid_clean",
        "fid_stargan2",
        "lpips_diversity",
        *_WEIGHTLESS,
    ),
}


def measure(name: str) -> Measure:
    """The measure of a name in an evaluation file; an unknown one is called by it."""
    return _KNOWN.get(name) or Measure(name.replace("_", " "), "")


def show(value: object, *, grouped: bool = True) -> Markup:
    """A value in a table, with all its digits in the ``value`` attribute of a number.

    Args:
        value: Any JSON value.
        grouped: Separate thousands; not in seeds and other settings.
    """
    if value is None:
        return Markup(ABSENT)
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int):
        return Markup('<data value="{}">{}</data>').format(value, f"{value:,}" if grouped else value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return Markup("not finite")
        return Markup('<data value="{}">{}</data>').format(repr(value), _rounded(value, 4))
    if isinstance(value, list | tuple):
        return Markup(", ").join(show(item, grouped=grouped) for item in value) or Markup(ABSENT)
    if isinstance(value, dict):
        return Markup(", ").join(
            Markup("{}: {}").format(str(key), show(item, grouped=grouped)) for key, item in value.items()
        )
    return Markup("{}").format(str(value))


def show_spread(mean: float, deviation: float | None) -> Markup:
    """A mean and, where there is more than one value, its standard deviation."""
    shown = show(mean)
    if deviation is None or not math.isfinite(deviation):
        return shown
    rounded = Markup('<data value="{}">{}</data>').format(repr(deviation), _rounded(deviation, 2))
    return shown + Markup(" \N{PLUS-MINUS SIGN} ") + rounded


def _rounded(value: float, digits: int) -> str:
    """So many significant digits, and never the letter e for thousands."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """``"12 s"``, ``"3 min 05 s"`` or ``"7 h 02 min"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
