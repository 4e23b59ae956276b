"""The name under which this floor has used :func:`m2o_fast.files.replacing`."""

from m2o_fast.files import replacing

__all__ = ["replacing"]
