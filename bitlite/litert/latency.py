"""Latencies of .tflite files, measured in turns: what slows the machine for a while slows all. No TensorFlow."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from bitlite.litert.runtime import Classifier

ROUNDS, WARMUP_RUNS, RUNS = 15, 5, 50
# Runs of a file before the other one has its turn, and turns that each has at least.
TURN, LEAST_TURNS = 25, 4
# Of a median: it is known well enough once its 95 % interval reaches no further to either side.
PRECISION = 0.02


def ratio(path: Path, other: Path, *, rounds: int = ROUNDS, runs: int = RUNS) -> float:
    """Median latency of one file as a share of the other's, for one image on one thread."""
    mine, others = in_turns((path, other), rounds=rounds, runs=runs)
    return mine / others


def in_turns(paths: Sequence[Path], *, rounds: int = ROUNDS, runs: int = RUNS) -> list[float]:
    """Median latency of each file in milliseconds, for one image, or what else it takes, on one thread."""
    turns = _turns([Classifier(path) for path in paths], runs)
    return np.median([np.median(times, axis=1) for times in islice(turns, rounds)], axis=0).tolist()


def side_by_side(classifier: Classifier, other: Classifier, *, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds that each takes for one image, as many times both.

    They end when both medians are known well enough, and at `runs` at the latest.
    """
    taken, turns = np.empty((2, 0)), _turns((classifier, other), min(TURN, runs))
    while True:
        taken = np.append(taken, next(turns), axis=1)[:, :runs]
        if taken.shape[1] == runs or (taken.shape[1] >= LEAST_TURNS * TURN and all(map(settled, taken))):
            return taken[0], taken[1]


def settled(times: np.ndarray) -> bool:
    """Whether the 95 % interval of the median of `times` is within PRECISION of it, and no drift belies that.

    The interval is between order statistics, whatever the distribution (David & Nagaraja, "Order Statistics", 7.1), but
    of times that do not depend on each other. Those of a machine that drifts do: then the halves differ.
    """
    ranked, middle, half = np.sort(times), len(times) / 2, 0.98 * np.sqrt(len(times))
    low, high = ranked[int(middle - half)], ranked[min(len(times) - 1, int(np.ceil(middle + half)))]
    median = np.median(times)
    drift = abs(np.median(times[: int(middle)]) - np.median(times[int(middle) :]))
    return max(median - low, high - median, drift / 2) <= PRECISION * median


def _turns(classifiers: Sequence[Classifier], runs: int) -> Iterator[np.ndarray]:
    """Turn after turn, the milliseconds [classifiers, runs] of each."""
    random = np.random.default_rng(0)
    # No operator's time depends on the pixels, but noise keeps clear of zeros that a CPU might treat apart.
    images = [random.integers(256, size=each.input["shape"][1:], dtype=np.uint8) for each in classifiers]
    pairs = list(zip(classifiers, images, strict=True))
    while True:
        yield np.array([each.latencies(image, warmup_runs=WARMUP_RUNS, runs=runs) for each, image in pairs])
