"""Latencies of .tflite files side by side. No TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitlite.litert.runtime import Classifier

ROUNDS, WARMUP_RUNS, RUNS = 15, 5, 50


def ratio(path: Path, other: Path, *, rounds: int = ROUNDS, runs: int = RUNS) -> float:
    """Median latency of one file as a share of the other's, for one image on one thread."""
    mine, others = in_turns((path, other), rounds=rounds, runs=runs)
    return mine / others


def in_turns(paths: Sequence[Path], *, rounds: int = ROUNDS, runs: int = RUNS) -> list[float]:
    """Median latency of each file in milliseconds, for one image, or what else it takes, on one thread.

    Measured in turns, so that whatever else slows this machine for a while slows all.
    """
    classifiers = [Classifier(path) for path in paths]
    times = [[] for _ in classifiers]
    for _ in range(rounds):
        for classifier, found in zip(classifiers, times, strict=True):
            image = np.random.default_rng(0).integers(256, size=classifier.input["shape"][1:], dtype=np.uint8)
            found.append(np.median(classifier.latencies(image, warmup_runs=WARMUP_RUNS, runs=runs)))
    return [float(np.median(found)) for found in times]
