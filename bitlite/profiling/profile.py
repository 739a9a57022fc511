"""Where the time of a .tflite file goes: the events of LiteRT's profiler, summed up by BiT's layers. No TensorFlow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bitlite.litert.operators import CONVOLUTIONS
from bitlite.litert.runtime import Classifier
from bitlite.profiling.litert_c import Event, profiled
from bitlite.profiling.operators import Operator

COLUMNS = ("layer", "type", "delegate", "time_share", "operators")
TYPES = {"conv2d": "conv", "standardized_conv2d": "conv", "group_norm": "norm"}
XNNPACK = "xnnpack"
# Turns of the interpreter and of the profiler.
ROUNDS = 10
# Runs in a turn that count, and before them, because the other's turn has emptied the caches.
ROUND, WARMUP = 10, 2
# The names of XNNPACK's operators for each of TFLite's. One that is not here counts to the layer of the one before.
XNNPACK_NAMES: dict[str, str | tuple[str, ...]] = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "Average Pooling",
    "BATCH_MATMUL": "Batch Matrix Multiply",
    "CONCATENATION": "Copy",
    "CONV_2D": ("Convolution", "Fully Connected"),
    "DEPTHWISE_CONV_2D": "Convolution",
    "DEQUANTIZE": "Convert",
    "FULLY_CONNECTED": "Fully Connected",
    "MAX_POOL_2D": "Max Pooling",
    "MEAN": "Mean",
    "MUL": ("Multiply", "Square"),
    "PAD": "Constant Pad",
    "QUANTIZE": "Convert",
    "RESHAPE": "Static Reshape",
    "RSQRT": "Reciprocal Square Root",
    "SQUARE": "Square",
    "SQUARED_DIFFERENCE": "Squared Difference",
    "STRIDED_SLICE": "Slice",
    "SUB": "Subtract",
    "SUM": "Sum",
}


@dataclass(frozen=True)
class Recording:
    """The events of one run in running order, and the microseconds that LiteRT's interpreter takes for a run."""

    events: list[Event]
    microseconds: float


def record(path: Path, image: np.ndarray, *, threads: int, rounds: int = ROUNDS) -> Recording:
    """Run a .tflite file on `image` [height, width, 3] in 0..255, and time the whole and its operators.

    The interpreter and the profiler take turns of ROUND runs, so that both meet the same machine. A time is the mean of
    the middle half of all runs, so that other work of the machine stays out.
    """
    classifier = Classifier(path, threads)
    whole, profiles = [], []
    with profiled(path, threads) as litert:
        litert.write(image.astype(classifier.input["dtype"]))
        for _ in tqdm(range(rounds), "profile", leave=False, disable=None):
            whole.append(classifier.latencies(image, warmup_runs=WARMUP, runs=ROUND) * 1000)
            profiles += [litert.profile() for _ in range(WARMUP + ROUND)][WARMUP:]
    (ran,) = {tuple((event.name, event.node) for event in profile) for profile in profiles}
    times = _middle(np.array([[event.microseconds for event in profile] for profile in profiles]))
    events = [Event(*one, microseconds) for one, microseconds in zip(ran, times.tolist(), strict=True)]
    return Recording(events, float(_middle(np.concatenate(whole))))


def _middle(runs: np.ndarray) -> np.ndarray:
    """Means of the middle half of numbers [runs, ...]."""
    ordered = np.sort(runs, axis=0)
    return ordered[len(runs) // 4 : len(runs) - len(runs) // 4].mean(axis=0)


def layers(file: Sequence[Operator], recording: Recording) -> Iterator[dict[str, str | float | int]]:
    """A row of COLUMNS for each layer of a file of these operators, in running order.

    `type` is conv, norm or other. `delegate` is "xnnpack", or the operators that XNNPACK leaves to LiteRT and why.
    `time_share`, 0..1, is the layer's part of the run; `operators` is the number of its operators. XNNPACK rounds its
    times down to whole microseconds: the time that the events lack to the whole run is spread evenly over them.
    """
    ran = recording.events
    missing = max(0.0, recording.microseconds - sum(event.microseconds for event in ran)) / len(ran)
    taken = dict.fromkeys((operator.layer for operator in file), 0.0)
    for event, layer in zip(ran, layers_of(file, ran), strict=True):
        taken[layer] += event.microseconds + missing
    whole, left = sum(taken.values()), _left(ran)
    for layer, microseconds in taken.items():
        own = [operator for operator in file if operator.layer == layer]
        refused = dict.fromkeys(operator.refusal for operator in own if operator.node in left)
        yield {
            "layer": layer,
            "type": TYPES.get(layer.rpartition("/")[2], "other"),
            "delegate": "; ".join(refused) or XNNPACK,
            "time_share": microseconds / whole,
            "operators": len(own),
        }


def delegated(file: Sequence[Operator], recording: Recording) -> float:
    """The share of a file's operators that XNNPACK runs, 0..1."""
    left = _left(recording.events)
    return sum(operator.node not in left for operator in file) / len(file)


def layers_of(file: Sequence[Operator], ran: Sequence[Event]) -> list[str]:
    """The layer of each event.

    XNNPACK does not say which operators of the file it made its own of. It keeps their order, runs each convolution as
    one and joins or splits others, so an event is the next operator of its kind before the next convolution.
    """
    places = {operator.node: place for place, operator in enumerate(file)}
    found, place, layer = [], 0, file[0].layer
    for event in ran:
        match = places.get(event.node) if event.node is not None else _next(file, place, event.name)
        if match is not None:
            place, layer = match + 1, file[match].layer
            found.append(layer)
        elif event.name.startswith("Convert"):  # of the input of a convolution of integers
            found.append(next((o.layer for o in file[place:] if o.type in CONVOLUTIONS), layer))
        else:
            found.append(layer)
    return found


def _next(file: Sequence[Operator], place: int, name: str) -> int | None:
    """The place, from `place` on and up to the next convolution, of an operator that XNNPACK calls by `name`."""
    for match in range(place, len(file)):
        if name.startswith(XNNPACK_NAMES.get(file[match].type, ())):
            return match
        if file[match].type in CONVOLUTIONS:
            return None
    return None


def _left(ran: Sequence[Event]) -> set[int]:
    """The numbers of the operators that XNNPACK leaves to LiteRT."""
    return {event.node for event in ran if event.node is not None}
