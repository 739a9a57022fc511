"""Timing .tflite files. ship.board sends this module to boards as it is: it imports NumPy and ai-edge-litert alone."""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Times(NamedTuple):
    """Milliseconds that it took to load a file, to run the first image, and to run it again.

    latencies_ms: float64 [runs], those after the runs that do not count.
    """

    load_ms: float
    first_inference_ms: float
    latencies_ms: np.ndarray


def times(path: str, *, threads: int, warmup_runs: int, runs: int, seconds: float) -> Times:
    """Load a .tflite file of one input and time it: `runs` at least, and for `seconds` at least."""
    start = time.perf_counter()
    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    loaded = time.perf_counter()
    (taken,) = interpreter.get_input_details()
    # No operator's time depends on the pixels, but noise keeps clear of zeros that a CPU might treat apart.
    image = np.random.default_rng(0).integers(256, size=taken["shape"]).astype(taken["dtype"])
    interpreter.set_tensor(taken["index"], image)
    (first,) = latencies(interpreter, range(1))
    latencies(interpreter, range(warmup_runs))
    return Times((loaded - start) * 1000, float(first), latencies(interpreter, at_least(runs, seconds)))


def latencies(interpreter: Interpreter, runs: Iterable) -> np.ndarray:
    """Milliseconds that each of `runs` takes, for the image which the interpreter has."""
    taken = []
    for _ in runs:
        start = time.perf_counter()
        interpreter.invoke()
        taken.append(time.perf_counter() - start)
    return np.array(taken) * 1000


def at_least(runs: int, seconds: float) -> Iterator[int]:
    """Numbers from 0 on, so many and for so long at least."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda run: run < runs or time.monotonic() < end, itertools.count())


def forth_and_back(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once a round, forth and back: a machine that gets warm, or busy, favours none.

    A name that is removed from `names` meanwhile has no further turns.
    """
    for number in range(rounds):
        yield from (name for name in list(names)[:: -1 if number % 2 else 1] if name in names)
