"""Triton's interpreter is slow. A kernel of one type differs from that of another in nothing but the type, so there
float32 and bfloat16 stand for all in the fast tests; gradcheck runs those of float64."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and is_interpreted(item) and has_another_type(item):
            item.add_marker(pytest.mark.slow)


def is_interpreted(item: pytest.Item) -> bool:
    """Whether a test runs Triton kernels on a CPU."""
    of_triton = "triton-cpu" in item.name or item.path.stem.endswith("_triton")
    return of_triton and os.environ.get("TRITON_INTERPRET") == "1"


def has_another_type(item: pytest.Item) -> bool:
    """Whether another type stands for its own."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("dtype") in (torch.float64, torch.float16)
