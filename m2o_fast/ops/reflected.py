"""A 3x3 convolution over reflected borders, on a CPU in Winograd's form.

Its kernels read what is mirrored where it stands in the image, and the gradient by input adds it there, so a reflected
border costs about what one of zeros does, and nothing is padded.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops.convolution import Geometry, conv2d, differentiable


def reflected_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``conv2d(pad(x, 1, mode="reflect"), weight, bias)``, differentiable any number of times; only rounding differs.

    Args:
        x: Float ``[N, Ci, H, W]``. Where H or W is 1 there is nothing to mirror, and the edge is repeated.
        weight: Float ``[Co, Ci, 3, 3]``, of the dtype of x (autocast apart).
        bias: Float ``[Co]`` or None, of the dtype of x (autocast apart).

    Returns:
        Float ``[N, Co, H, W]``, in the dtype and memory format of x, or in the dtype of autocast.

    Raises:
        ValueError: A weight or a bias of a wrong shape.
    """
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(
            f"reflected_conv3x3: needs x [N, Ci, H, W] and weight [Co, Ci, 3, 3], got shapes {list(x.shape)} and "
            f"{list(weight.shape)}"
        )
    if min(x.shape[2:]) == 1:
        return conv2d(F.pad(x, (1,) * 4, mode="replicate"), weight, bias)
    return differentiable("reflected_conv3x3", x, weight, bias, Geometry(1, 1, reflected=True))
