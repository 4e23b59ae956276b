"""An evaluation file written by hand, in the format of ``m2o-fast eval``."""

from __future__ import annotations

from typing import Any


def evaluation(**changes: Any) -> dict[str, Any]:
    """That of a run of four steps."""
    generated, real = [0] * 64, [1] * 64
    generated[63], generated[1], real[63], real[2] = 30, 10, 3, 0
    return {
        "format": 1,
        "run": "first",
        "step": 4,
        "directions": {
            "color->gray": {"none": {"mse": 0.0123456789, "psnr": 19.084850188, "style_independent": True}},
            "gray->color": {
                "latent": {"color_recall": 0.7451, "color_recall_ceiling": 0.9217, "unique_colors": 12345},
                "reference": {"color_recall": 0.6151, "fid_clean": 41.25},
            },
        },
        "means": {"latent": {"color_recall": 0.7451}, "none": {"mse": 0.0123456789}},
        "details": {
            "color->gray": {"worst": [{"index": i, "measure": "mse", "value": 0.5 - i / 10} for i in (5, 0)]},
            "gray->color": {"color_histogram": {"bins": 4, "generated": generated, "real": real}},
        },
        "protocol": {"data": "digits", "split": "test", "sources": 6, "style_seed": 2024, "extractor": "digits-cnn"},
        "warnings": ["fewer images than features"],
        **changes,
    }
