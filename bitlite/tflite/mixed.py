"""scheme: mixed: which convolutions are float32, int8 and int4. No TensorFlow.

Each convolution is measured in each type alone, the others being float32: the error that it brings into the logits, and
what it saves. Step by step the file then takes what errs least for what it saves, as long as its accuracy allows.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bitlite.bit.weights import Bit
from bitlite.litert import latency, runtime
from bitlite.tflite import conversion, quantizer
from bitlite.tflite.convolutions import decibels, outputs
from bitlite.tflite.dense import dense
from bitlite.tflite.graph import Graph, to_file
from bitlite.tflite.lowering import MODEL, lower
from bitlite.tflite.schemes import Source, Types, lowered
from bitlite.workflow import scores
from bitlite.workflow.params import Mixed

COLUMNS = (
    "step", "layer", "type", "snr_db", "saved_bytes", "saved_us", "size_bytes", "latency_ms", "accuracy", "chosen",
)  # fmt: skip
# Validation images, at most, on which the error of each convolution is measured: every image tells that of its logits,
# so few will do. The loss, which a few unsure images make up, would take many.
SAMPLE = 64
# Into so many equal parts the steps are cut to see where accuracy falls, before bisection.
PARTS = 4
# Rounds in which latencies are measured.
ROUNDS = 5


@dataclass(frozen=True)
class Alone:
    """A convolution in a type, where all others are float32.

    error: mean square of what it changes in the logits. saved_bytes, saved_us: against float32; None if not measured.
    """

    layer: str
    type: str
    error: float = 0.0
    saved_bytes: int = 0
    saved_us: float | None = None


# What an objective saves.
SAVED: dict[str, Callable[[Alone], float]] = {
    "size": lambda alone: alone.saved_bytes,
    "latency": lambda alone: alone.saved_us or 0.0,
}


def choose(source: Source, pixels: runtime.Images, labels: np.ndarray) -> tuple[Types, list[dict]]:
    """The types of the convolutions for an entry of scheme mixed, and all that was tried as rows of COLUMNS.

    pixels, labels: validation images uint8 [images, height, width, 3] and their classes. The steps of `in_order` are
    taken as far as accuracy stays within max_accuracy_drop of that of float32: the last place where it does is sought
    among PARTS + 1 places, and from there to the next one by bisection.

    Rows: one for each step, the first being float32, with the file's size and accuracy where it was tried; then what
    no step takes. The objective `latency` depends on this machine, `size` gives equal types for equal input.
    """
    entry = source.entry
    assert isinstance(entry, Mixed), "only scheme mixed leaves a choice"
    timed = entry.objective == "latency"
    with tempfile.TemporaryDirectory() as scratch:
        power, measured = _alone(source, pixels[:SAMPLE], Path(scratch))
        if timed:
            measured = _timed(source, measured, Path(scratch))
        steps = in_order(measured, SAVED[entry.objective])
        files: dict[int, Path] = {}  # by the number of steps taken
        accuracies: dict[int, float] = {}

        def enough(count: int) -> bool:
            content = conversion.file(source, _types(steps[:count]), trial=True)
            files[count] = _written(content, Path(scratch), f"step{count}")
            accuracies[count] = scores.accuracy(runtime.logits(files[count], pixels), labels)
            return scores.within(accuracies[count], accuracies[0], entry.max_accuracy_drop)

        chosen = last(len(steps), enough)
        tried = {
            count: {"size_bytes": path.stat().st_size, "accuracy": accuracies[count]} for count, path in files.items()
        }
        if timed:
            for row, latency_ms in zip(tried.values(), latency.in_turns([*files.values()], rounds=ROUNDS), strict=True):
                row["latency_ms"] = latency_ms

    taken = [
        _row(each, power) | {"step": count, "chosen": str(count <= chosen).lower()} | tried.get(count, {})
        for count, each in enumerate([Alone("", ""), *steps])
    ]
    return _types(steps[:chosen]), [*taken, *(_row(each, power) for each in measured if each not in steps)]


def in_order(measured: Iterable[Alone], saved: Callable[[Alone], float]) -> list[Alone]:
    """The steps from float32 on, those first that add the least error for what they save.

    measured: a convolution's types follow one another. Its steps save ever more at an ever higher price; types that
    others beat have none. That is the greedy way through a knapsack of which each item is one of several (Sinha &
    Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27, 1979), with errors that add up.
    """
    priced = []
    for layer, types in groupby(measured, lambda alone: alone.layer):
        here, paid, offered = Alone(layer, "float32"), -np.inf, list(types)
        while further := [each for each in offered if saved(each) > saved(here)]:
            prices = [(each.error - here.error) / (saved(each) - saved(here)) for each in further]
            paid = max(paid, min(prices))  # rounding may not put it before the step that it follows
            here = further[int(np.argmin(prices))]
            priced.append((paid, here))
    return [each for _, each in sorted(priced, key=lambda step: step[0])]


def last(count: int, enough: Callable[[int], bool]) -> int:
    """The last of 0..count that is `enough`, of those that `choose` asks; 0, the first that it asks, always is."""
    found = {place: enough(place) for place in sorted({count * part // PARTS for part in range(PARTS + 1)})}
    low = max((place for place, held in found.items() if held), default=0)
    high = min((place for place in found if place > low), default=low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def dense_layers(bit: Bit) -> set[str]:
    """Paths of the convolutions that can be int4: those that are in the scheme int4, being fast and large enough."""
    large = outputs(to_file(lower(bit, [dense])), quantizer.SMALL)
    return {path for path in bit.paths if large.get(f"{MODEL}/{path}/conv") == "FULLY_CONNECTED"}


def _alone(source: Source, pixels: np.ndarray, scratch: Path) -> tuple[float, list[Alone]]:
    """Mean square of the logits in float32, and each convolution in int8 and, where it can be, in int4."""

    def logits(content: bytes) -> np.ndarray:
        """[images, classes], as far as they tell classes apart: what they have in common is taken out."""
        found = runtime.logits(_written(content, scratch, "alone"), pixels).astype(np.float64)
        if source.entry.softmax:
            found = np.log(np.maximum(found, np.finfo(np.float32).tiny))
        return found - found.mean(axis=1, keepdims=True)

    float32 = conversion.file(source, trial=True)
    expected = logits(float32)
    measured = []
    for layer, type in tqdm(_pairs(source.bit.paths, dense_layers(source.bit)), "try types", leave=False, disable=None):
        content = conversion.file(source, {layer: type}, trial=True)
        error = float(np.mean((logits(content) - expected) ** 2))
        measured.append(Alone(layer, type, error, len(float32) - len(content)))
    return float(np.mean(expected**2)), measured


def _pairs(paths: Sequence[str], int4: Collection[str]) -> list[tuple[str, str]]:
    return [(path, type) for path in paths for type in ("int8", "int4") if type == "int8" or path in int4]


def _timed(source: Source, measured: Sequence[Alone], scratch: Path) -> list[Alone]:
    """With the microseconds that each convolution saves, run by itself from float32 to float32."""
    keys = [*dict.fromkeys((each.layer, "float32") for each in measured), *((e.layer, e.type) for e in measured)]
    paths = []
    for number, (layer, type) in enumerate(keys):
        content = to_file(single(lowered(source, {layer: type}), layer))
        paths.append(_written(quantizer.by_layer(content, {layer: type}, source.ranges), scratch, f"single{number}"))
    taken = dict(zip(keys, latency.in_turns(paths, rounds=ROUNDS), strict=True))
    return [
        replace(each, saved_us=1000 * float(taken[each.layer, "float32"] - taken[each.layer, each.type]))
        for each in measured
    ]


def single(graph: Graph, path: str) -> Graph:
    """The operators of one convolution, from the image that it reads to what it gives."""
    own = [each for each in graph.operators if each.output.name.startswith(f"{MODEL}/{path}/")]
    return Graph(own[0].inputs[0], own)


def _types(steps: Iterable[Alone]) -> Types:
    return {each.layer: each.type for each in steps}


def _written(content: bytes, directory: Path, name: str) -> Path:
    path = directory / f"{name}.tflite"
    path.write_bytes(content)
    return path


def _row(alone: Alone, power: float) -> dict:
    """A row of COLUMNS that no step takes. power: mean square of the logits."""
    ratio = decibels(power, alone.error)
    return dict.fromkeys(COLUMNS, "") | {
        "layer": alone.layer,
        "type": alone.type,
        "snr_db": ratio if np.isfinite(ratio) else "",
        "saved_bytes": alone.saved_bytes,
        "saved_us": "" if alone.saved_us is None else alone.saved_us,
        "chosen": "false",
    }
