"""What is used when nobody asks for anything else: one table, set from measurements.

The rows behind it: benchmarks/results/, shown in docs/benchmarks.md. Where a device has no rows yet, the entry is the
expectation from counting memory passes and multiplications, and says so.
"""

from __future__ import annotations

import torch

#: Triton on a CPU is the interpreter, for tests.
_CPU = ("compiled", "reference", "triton")
#: An expectation: not run on a GPU yet.
_CUDA = ("compiled", "triton", "reference")

#: Function -> device type -> backends, the fastest first. The first one that is there is taken.
PREFERENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "adain_act": {"cpu": _CPU, "cuda": _CUDA},
    "color_histogram": {"cpu": _CPU, "cuda": _CUDA},
    "foreground_color": {"cpu": _CPU, "cuda": _CUDA},
    "instance_norm_act": {"cpu": _CPU, "cuda": _CUDA},
    "leaky_relu_down2": {"cpu": _CPU, "cuda": _CUDA},
    "residual_merge": {"cpu": _CPU, "cuda": _CUDA},
    "scale_bias_act": {"cpu": _CPU, "cuda": _CUDA},
    "scale_channels": {"cpu": _CPU, "cuda": _CUDA},
    "soft_color_histogram": {"cpu": _CPU, "cuda": _CUDA},
    "unique_color_count": {"cpu": _CPU, "cuda": _CUDA},
}

#: Function -> device type -> dtypes whose resampling is folded into the convolution. CUDA: an expectation, from 2.25 (a
#: 5x5 kernel: 2.8) times fewer multiplications and no tensor in between.
FOLDED: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
    "conv3x3_down2": {
        "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
        "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    },
    "up2_conv3x3": {
        "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
        "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    },
    # Folded weights of 16 bits are rounded once more; on a CPU, bfloat16 was 1.2 to 2.5 times as fast unfolded.
    "up2_reflected_conv5x5": {"cpu": (torch.float32, torch.float64), "cuda": (torch.float32, torch.float64)},
}

#: Numbers from which residual_merge without resampling takes a kernel on a CPU where it has to be differentiated. With
#: fewer, what autograd's call of Python costs is more than the pass over memory that is spared: in float32, forward and
#: backward, torch's sum and product took 142 us and the kernel 171 us for 2**15 numbers, 196 us and 206 us for 2**17,
#: 309 us and 283 us for 2**18.
WORTH_A_MERGE = 2**18


def is_worth_a_merge(numbers: int, dtype: torch.dtype) -> bool:
    """Whether a residual_merge without resampling that is differentiated is worth a kernel, on a CPU."""
    return numbers >= WORTH_A_MERGE or dtype not in (torch.float32, torch.float64)


#: Device type -> whether features are kept channels_last. CUDA: an expectation, what tensor cores read without a copy.
#: What is built on meta moves to one of these.
CHANNELS_LAST: dict[str, bool] = {"cpu": True, "cuda": True, "meta": True}


def folds(op: str, device: str, dtype: torch.dtype) -> bool:
    """Whether ``op`` folds its resampling into the convolution on this type of device."""
    return dtype in FOLDED[op].get(device, ())


#: Channels, in and out, from which a 3x3 convolution that takes Winograd's form is not folded. Unfolded it has 1.8
#: times fewer multiplications than folded, but an image more to write and read. Forward and backward, one thread, with
#: AVX2 and with AVX-512: with 64 channels folding was 1.1 times as fast in batches of 32 and up to 1.5 times slower in
#: batches of 4, with 128 channels 0.9 to 2.3 times as slow, with 512 channels 1.4 to 7 times.
WINOGRAD_UNFOLDED = 128


def winograd_beats_folding(shape: torch.Size, out_channels: int) -> bool:
    """Whether a 3x3 convolution of ``[N, C, H, W]`` on a CPU and a resampling behind or before it are best in a row.

    The size of the batch has no say: what is kept for the backward pass depends on it, and a few images tell how much
    memory many will take (m2o_fast/engine/memory.py).
    """
    return min(shape[1], out_channels) >= WINOGRAD_UNFOLDED and winograd_pays(
        torch.Size((WINOGRAD_TILES, *shape[1:])), out_channels
    )


#: Multiplications of a 5x5 convolution behind a doubling of an image from which it is folded
#: (m2o_fast/ops/reflected_up.py), in float32. Intel Xeon, AVX-512, one thread, processor time, forward and backward,
#: batch of 4: 256 channels to 128, 16 pixels to 32, 2.5 times as fast as unfolded; 128 to 64, 32 to 64, 2.2, of one
#: image 1.6; 256 to 128, 8 to 16, 0.8, batch of 8, 1.1, of one image 0.4; 64 to 32, 8 to 16, batch of 8, 0.7. Elsewhere
#: expected.
WORTH_FOLDING_5X5 = 2**28


def folding_5x5_pays(shape: torch.Size, out_channels: int) -> bool:
    """Whether a 5x5 convolution behind a doubling of ``[N, C, H, W]`` is folded, whatever the size of the batch."""
    return shape[1:].numel() * out_channels * 100 >= WORTH_FOLDING_5X5


def feature_format(device: str) -> torch.memory_format:
    """The memory format in which networks keep their features on this type of device, or in what is exported."""
    chosen = CHANNELS_LAST.get(device) and not torch.compiler.is_exporting()
    return torch.channels_last if chosen else torch.contiguous_format


#: Winograd's convolution on a CPU: the least number of tiles of 4x4 outputs, and what the numbers of channels must be
#: multiples of. Forward and backward through ``conv2d``, one thread, processor time, images of 8x8. AMD EPYC, AVX2:
#: with 16 tiles 1.1 times as fast as torch's at 16 channels, 1.4 at 64 and 1.7 at 512; with 8 tiles 0.8 to 1.3, with
#: 64 tiles 1.3 to 3. Intel Xeon, AVX-512: with 4 tiles 0.7 to 1.1 at 64 and 128 channels, 1.2 to 3.5 at 256 and 512;
#: with 8 tiles 1.3 to 3.2, with 16 tiles 1.4 to 2.3. Fewer tiles do not make up for the weight's frequencies, nor few
#: channels for the calls. A tile costs the same however much of it is image: half used they gained 1.1 to 1.7, a
#: quarter used 0.7 to 1.2.
WINOGRAD_TILES = 8 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 16
#: Channels, in and out, from which half of those tiles do. AMD EPYC, AVX-512, with 4 tiles, the operators alone, both
#: formats: 1.2 to 2.2 times as fast with 16 and 32 channels, which the call takes back, 1.6 to 2.4 with 64 to 512; with
#: one tile 0.6 to 1.0.
WINOGRAD_MANY_CHANNELS = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 256
WINOGRAD_CHANNELS = 16


def winograd_pays(shape: torch.Size, out_channels: int) -> bool:
    """Whether a 3x3 convolution of a CPU tensor ``[N, C, H, W]`` takes Winograd's form."""
    batch, channels, height, width = shape
    tiles = batch * -(-height // 4) * -(-width // 4)
    least = WINOGRAD_TILES // (2 if min(channels, out_channels) >= WINOGRAD_MANY_CHANNELS else 1)
    enough = tiles >= least and batch * height * width >= 8 * tiles
    return enough and channels % WINOGRAD_CHANNELS == out_channels % WINOGRAD_CHANNELS == 0


#: Channels, in and out, from which Winograd's form in float32 is faster than torch's convolution of bfloat16 on a
#: processor that multiplies bfloat16. AMD EPYC with AVX-512 and its products of bfloat16, one thread, processor time,
#: batch of 4, forward and backward, both formats: 512 channels at 16 pixels 1.25 and 1.3 times as fast, at 8 pixels
#: 1.2 and 1.1; 256 at 16 pixels 1.2 in both, at 8 pixels 0.9 and 1.1; 128 and 64 channels 1.0 to 1.2, forward alone 0.9
#: to 1.0. With AMX: expected, since there an iteration at the published widths is slower in bfloat16
#: (docs/performance.md).
WINOGRAD_BEATS_BFLOAT16 = 256


def winograd_beats_bfloat16(channels: int, out_channels: int) -> bool:
    """Whether a convolution of bfloat16 that may take Winograd's form does so, in float32, on any CPU."""
    return min(channels, out_channels) >= WINOGRAD_BEATS_BFLOAT16


#: Multiplications of a convolution of stride 1. With fewer, what a call in Python costs outweighs faster second
#: derivatives: on a CPU, an iteration of the digits preset took 247 ms with ours for all and 221 ms with torch's.
WORTH_A_CALL = 2**24


def is_worth_a_call(shape: torch.Size, kernel: torch.Size) -> bool:
    """Whether a convolution that does not take Winograd's form is worth its derivatives in Python, on a CPU."""
    return shape.numel() * kernel[0] * kernel[2] * kernel[3] >= WORTH_A_CALL


#: Numbers of a weight per output pixel of the batch from which a convolution on a CPU is a product of gathered patches
#: (m2o_fast/ops/patches.py), and from which its gradient by weight is one. Intel Xeon, AVX-512, one thread, processor
#: time, channels_last, 4x4 with stride 2: 512 channels from 2 pixels to 1, batch 4, forward 1.6 times as fast as
#: torch's, by input 2.5, by weight 9.5; 512 from 4 to 2 pixels, batch 32, 2.8, 2.8 and 5.2; 256 to 512 channels from 8
#: to 4 pixels, batch 4, 1.5, 1.9 and 3.3; 128 to 256 from 16 to 8, batch 4, 0.8, 0.9 and 1.4; 64 to 128 from 32 to 16
#: 0.5, 0.6 and 1.1.
PATCHES_FROM = 2**13
PATCHES_BY_WEIGHT_FROM = 2**11


def patches_pay(pixels: int, weight: torch.Size, *, by_weight: bool) -> bool:
    """Whether a convolution of so many output pixels takes gathered patches, or whether its gradient by weight does."""
    return weight.numel() >= pixels * (PATCHES_BY_WEIGHT_FROM if by_weight else PATCHES_FROM)


#: Convolutions of stride 1 without padding between images of many channels and of few, by rows of the kernel
#: (m2o_fast/ops/rows.py) on a CPU: at most so many channels, at least so many, a kernel and images of at least so many
#: pixels in a row. Intel Xeon, AVX-512, one thread, processor time, 7x7, 64 channels and 3, 64 outputs in a row, batch
#: of 4: forward 1.9 to 2.3 times as fast as torch's, by weight 2.5 to 3.4, by input of 3 channels 1.4 to 1.8; with 8
#: channels 1.1, 1.4 and 0.9; with 32 channels to 3 and 32 outputs in a row 1.2, 1.7 and 1.0; with 16 outputs 1.0, 1.5
#: and 0.8.
FEW_CHANNELS, ROWS_CHANNELS, ROWS_KERNEL, ROWS_SIDE = 4, 32, 5, 32


def rows_pay(shape: torch.Size, few: int, kernel: int) -> bool:
    """Whether a convolution between images ``[N, C, H, W]`` and images of few channels goes by rows of the kernel."""
    wide = shape[1] >= ROWS_CHANNELS and min(shape[2:]) >= ROWS_SIDE
    return wide and few <= FEW_CHANNELS and kernel >= ROWS_KERNEL


#: Instruction sets (``torch.backends.cpu.get_cpu_capability()``) without products of bfloat16, which torch emulates:
#: convolutions took 10 to 40 times as long as in float32, matrix products 5 times.
WITHOUT_BFLOAT16 = ("DEFAULT", "AVX2")


def emulates_bfloat16(device: str) -> bool:
    """Whether torch emulates products of bfloat16 on this type of device; float32 products then take their place."""
    return device == "cpu" and torch.backends.cpu.get_cpu_capability() in WITHOUT_BFLOAT16
