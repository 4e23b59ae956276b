"""Blocks of the translators, thin modules over :mod:`m2o_fast.ops`; :func:`accelerate` for other networks."""

from m2o_fast.nn.acceleration import Acceleration, accelerate

__all__ = ["Acceleration", "accelerate"]
