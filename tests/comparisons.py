"""Variants with made-up metrics, for tests of the report."""

import numpy as np

from bitlite.report.variants import Comparison, Variant
from bitlite.workflow.params import Compare

IMAGES = 16


def variant(name: str, **changes) -> Variant:
    """A variant that differs from all others only by `changes`; nothing was checked of it but on the CPU."""
    measured = {
        "accuracy": 0.9, "top5_accuracy": 1.0, "validation_accuracy": 0.9, "agreement": 0.95, "size_bytes": 1000,
        "gzip_bytes": 900, "sparsity": 0.0, "latency_ms_p50": 2.0, "latency_ms_p90": 2.5, "latency_ms_p99": 3.0,
        "baseline_ms_p50": 2.0, "load_ms": 5.0, "first_inference_ms": 4.0, "runs": 100, "peak_memory_mb": 40.0,
        "delegated": 1.0, "threads": 1, "cpu": "Test CPU", "images_tried": 20, "npu": "ethos-u55-256",
        "gpu_agreement": None, "gpu_whole": None, "gpu_difference": None, "float16_agreement": None,
        "float16_peak": None, "tflm_agreement": None, "tflm_arena_bytes": None, "npu_share": None, "npu_cycles": None,
        "oldest_runtime": "TensorFlow Lite 2.5.0",
    }  # fmt: skip
    return Variant(name=name, **{**measured, **changes})


def comparison(*variants: Variant, right=None, **rule) -> Comparison:
    """Variants, of which dense-float32 is the baseline.

    right: by variant, whether it classifies each test image rightly; without it the first of IMAGES, by accuracy.
    """
    first = {v.name: np.arange(IMAGES) < round(v.accuracy * IMAGES) for v in variants}
    return Comparison(variants, Compare(baseline="dense-float32", **rule), right or first)
