"""Latencies of two .tflite files side by side. No TensorFlow."""

from pathlib import Path

import numpy as np

from bitlite.litert.runtime import Classifier

ROUNDS, WARMUP_RUNS, RUNS = 15, 5, 50


def ratio(path: Path, other: Path, *, rounds: int = ROUNDS, runs: int = RUNS) -> float:
    """Median latency of one file as a share of the other's, for one image on one thread.

    Measured in turns, so that whatever else slows this machine for a while slows both.
    """
    classifiers = [Classifier(each) for each in (path, other)]
    image = np.random.default_rng(0).integers(256, size=(*classifiers[0].image_size, 3), dtype=np.uint8)
    times = [[], []]
    for _ in range(rounds):
        for classifier, found in zip(classifiers, times, strict=True):
            found.append(np.median(classifier.latencies(image, warmup_runs=WARMUP_RUNS, runs=runs)))
    return float(np.median(times[0]) / np.median(times[1]))
