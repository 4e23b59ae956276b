"""Blocks shared by the translators: thin modules over :mod:`m2o_fast.ops`."""
