"""The schema of a run's configuration: every key, its meaning, default and limits."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from m2o_fast.m2o import VARIANTS, ManyToOne

#: the data sets that a configuration can name; each has a preset
DATASETS = ("digits", "mnist", "ade20k", "folder")
#: those of them that are a folder of image files
IN_FOLDERS = ("ade20k", "folder")
#: the names of devices, as a regular expression
DEVICES = r"auto|cpu|cuda(:\d+)?"


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; nearest: 'hms'"`` where a known word resembles ``word``, else the empty string."""

    def resemblance(candidate: str) -> tuple[float, float]:
        order = difflib.SequenceMatcher(None, word, candidate).ratio()
        # Between equally similar words, prefer the one with the same letters: 'hsm' is a mistyped 'hms', not 'hmu'.
        letters = difflib.SequenceMatcher(None, sorted(word), sorted(candidate)).ratio()
        return order, letters

    best = max(known, key=resemblance)
    return f"; nearest: {best!r}" if resemblance(best)[0] >= 0.5 else ""


# --- checks of single values ---


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _known_variant(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"unknown variant{nearest(name, VARIANTS)} (variants: {', '.join(VARIANTS)})")
    return name


def _known_dataset(name: str) -> str:
    if name not in DATASETS:
        raise ValueError(f"unknown data set{nearest(name, DATASETS)} (data sets: {', '.join(DATASETS)})")
    return name


def _known_device(name: str) -> str:
    if not re.fullmatch(DEVICES, name):
        raise ValueError("unknown device; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'")
    return name


def _power_of_two(size: int) -> int:
    if size < 32 or size & (size - 1):
        raise ValueError("the image size must be a power of two and at least 32 (32, 64, 128, 256, ...)")
    return size


def _folder(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):  # a folder may be called 2024
        value = str(value)
    if value == "":
        raise ValueError("must name a folder; leave the key out for the default")
    return os.path.expanduser(value) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_number), Field(ge=1, lt=2**53)]
Threads = Annotated[int, BeforeValidator(_number), Field(ge=1, le=1024)]
CountOrZero = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**53)]
Rate = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Decay = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]


# --- the schema ---


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """What is trained on.

    Attributes:
        name: ``"digits"`` (scikit-learn's 8x8 digits, always there), ``"mnist"`` (four IDX files), ``"ade20k"``
            (scenes and their label maps) or ``"folder"`` (own images, a folder per domain); docs/data.md shows the
            layouts. ``"folder:DIR"`` sets the folder too.
        dir: Folder of the data set's files; ``None``, for MNIST: ``M2O_DATA_DIR`` of the environment, then the cache.
        uni: For ``"folder"``: names of the uni-modal domains.
        labels: For ``"ade20k"``: label maps as colours, ``"palette"``, or as one channel per class, ``"onehot"``.
        cache: Keep decoded images in the cache folder, for the next run and other processes.
        max_unreadable: Share of a domain's image files that may be unreadable; they are named and left out.
        image_size: Side length of the images in pixels; a power of two, at least 32.
        color_law: Law of a digit's colour: ``"rgb"`` (uniform in the RGB cube where the brightest channel is at
            least 0.25) or ``"hue"`` (fully saturated, uniform hue).
        pair_fraction: Share of the colour images whose gray counterpart is known to HMS, in [0, 1].
        crop_probability: Probability of a random crop, in [0, 1].
        flip_probability: Probability of a horizontal flip, in [0, 1]. Flipped digits are no digits: 0 for them.
    """

    name: Annotated[str, AfterValidator(_known_dataset)] = "digits"
    dir: Annotated[str, BeforeValidator(_folder)] | None = None
    uni: tuple[str, ...] = ()
    labels: Literal["palette", "onehot"] = "palette"
    cache: StrictBool = True
    max_unreadable: Share = 0.01
    image_size: Annotated[int, BeforeValidator(_number), AfterValidator(_power_of_two)] = 32
    color_law: Literal["rgb", "hue"] = "rgb"
    pair_fraction: Share = 1.0
    crop_probability: Share = 0.0
    flip_probability: Share = 0.0

    @model_validator(mode="after")
    def _agree(self) -> DataConfig:
        if self.name in IN_FOLDERS and self.dir is None:
            raise ValueError(f"data set {self.name!r} needs its folder: --data {self.name}:DIR")
        if self.uni and self.name != "folder":
            raise ValueError(f"data.uni (--uni) is for own folders; data set {self.name!r} knows its uni-modal domain")
        return self


class ModelConfig(_Section):
    """Sizes of the networks.

    Attributes:
        base_width: Channels after the first layer; ``"official"``: 2^14 / image_size, as published; ``None``: the
            same, but at most ``max_width``.
        max_width: Upper limit of the channels of every layer (512 as published).
        style_dim: Length of a style vector.
        latent_dim: Length of the latent vectors that the mapping network turns into styles.
        hidden_dim: Width of the mapping network.
        style_op: How a style acts on features: ``"adain"`` or ``"demod"`` (weight demodulation).
    """

    base_width: Count | Literal["official"] | None = None
    max_width: Count = 64
    style_dim: Count = 64
    latent_dim: Count = 16
    hidden_dim: Count = 512
    style_op: Literal["adain", "demod"] = "adain"


class LossConfig(_Section):
    """Weights of the losses, each at least 0; the adversarial loss has weight 1.

    Attributes:
        r1: R1 penalty of the discriminator.
        style: Style reconstruction.
        cycle: Cycle consistency.
        diversity: Diversity at the first step; it falls linearly to 0.
        diversity_steps: Steps until it is 0; ``None``: all steps of the run.
        supervised: Supervised loss of HMS; hmu and starganv2 have none.
        r1_every: **Changes the numbers.** 1 takes the R1 penalty in every step, as published; k only in every k-th,
            with k times its weight (lazy regularization, arXiv 1912.04958, section 3.1, where k is 16).
        merge_discriminator_steps: **Changes the numbers.** False trains the discriminator twice per iteration, as
            published, with latent-guided and with reference-guided fakes; true once, on the mean of both losses.
    """

    r1: Weight = 1.0
    style: Weight = 1.0
    cycle: Weight = 1.0
    diversity: Weight = 1.0
    diversity_steps: Count | None = None
    supervised: Weight = 1.0
    r1_every: Count = 1
    merge_discriminator_steps: bool = False


class OptimConfig(_Section):
    """Adam, and the moving average of the weights.

    Attributes:
        lr: Learning rate of generator, style encoder and discriminator.
        mapping_lr: Learning rate of the mapping network.
        betas: Decay rates of Adam's two moments, each in [0, 1).
        weight_decay: L2 weight decay, added to the gradient.
        ema: Decay per step of the moving average that sampling uses, in [0, 1).
    """

    lr: Rate = 1e-3
    mapping_lr: Rate = 1e-5
    betas: tuple[Decay, Decay] = (0.0, 0.99)
    weight_decay: Weight = 1e-4
    ema: Decay = 0.995

    def learning_rate(self, group: str) -> float:
        """The learning rate of a translator's parameter group."""
        return self.mapping_lr if group == "mapping_network" else self.lr


class Config(_Section):
    """Everything that determines a run.

    Attributes:
        variant: Name of the system, a key of :data:`m2o_fast.m2o.VARIANTS`.
        data: What is trained on.
        model: Sizes of the networks.
        loss: Weights of the losses.
        optim: Optimizer and moving average.
        steps: Training iterations.
        batch_size: Source images per iteration.
        seed: Seed of everything random.
        checkpoint_every: Steps between two checkpoints; one more is written at the end.
        keep_checkpoints: How many of the newest checkpoints are kept; 0 keeps all.
        sample_every: Steps between two sample grids.
        log_every: Steps between two lines of the log.
        device: ``"auto"`` (CUDA where there is a device), ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.
        threads: CPU threads; ``None`` leaves the choice to torch.
        precision: ``"fp32"``; ``"tf32"`` (NVIDIA GPUs: float32 products with 10 bits of mantissa); ``"bf16"`` (forward
            passes in bfloat16, what stays float32 multiplied as with tf32; less memory, and faster where the device
            has such arithmetic). Weights, optimizer, average, images, losses and R1 are float32 in all of them.
        cuda_graphs: Whether steps are recorded as CUDA graphs and replayed as a whole: the same numbers, no waiting for
            Python. NVIDIA GPUs, one process.
        compile: Whether ``torch.compile`` compiles the nets that R1 does not touch: other rounding; minutes before
            the first step.
        accumulate: Parts that a batch is processed in, each taking its share of the memory; gradients are those of
            the whole batch, to rounding.
        tensorboard: Whether metrics and samples are also written for TensorBoard, which must be installed.
    """

    variant: Annotated[str, AfterValidator(_known_variant)] = "hms"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    steps: Count = 1000
    batch_size: Count = 32
    seed: CountOrZero = 777
    checkpoint_every: Count = 200
    keep_checkpoints: CountOrZero = 3
    sample_every: Count = 200
    log_every: Count = 20
    device: Annotated[str, AfterValidator(_known_device)] = "auto"
    threads: Threads | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    cuda_graphs: StrictBool = False
    compile: StrictBool = False
    accumulate: Count = 1
    tensorboard: StrictBool = False

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if VARIANTS[self.variant].supervised_weight > 0:
            for key, value in (
                ("data.pair_fraction", self.data.pair_fraction),
                ("loss.supervised", self.loss.supervised),
            ):
                if value == 0:
                    raise ValueError(
                        f"variant {self.variant!r} learns from known pairs, but {key} is 0; raise it, or train "
                        "without pairs with variant 'hmu'"
                    )
        return self

    @property
    def base_width(self) -> int:
        """Channels after the first layer, as a number."""
        published = max(1, 2**14 // self.data.image_size)
        match self.model.base_width:
            case "official":
                return published
            case None:
                return min(published, self.model.max_width)
            case width:
                return width

    @property
    def diversity_steps(self) -> int:
        """Steps until the diversity weight is 0, as a number."""
        return self.loss.diversity_steps or self.steps

    @property
    def rules(self) -> ManyToOne:
        """The many-to-one rules of the variant, with the supervised weight of this configuration."""
        rules = VARIANTS[self.variant]
        return replace(rules, supervised_weight=self.loss.supervised) if rules.supervised_weight > 0 else rules
