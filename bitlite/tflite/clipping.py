"""Ranges that cut off rare values where the steps that they save make all others more exact. No TensorFlow.

Of two ends both are searched (Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295, 3.1).
"""

import math
from collections.abc import Iterable

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_quantizer.qtyping import QSV
from tqdm import tqdm

from bitlite.tflite.calibration import Ranges
from bitlite.tflite.convolutions import CODES, values
from bitlite.tflite.lowering import SCALED, SHIFT

# Between the least and the largest int8.
STEPS = 255
# Places that values are counted at, for each step of the whole range.
PARTS = 16
# Values of a tensor, at most, that are counted of an image.
SAMPLE = 4096
# Shares of each end that are tried.
SHARES = np.linspace(0.3, 1, 36)


def without_idle(ranges: Ranges) -> Ranges:
    """`ranges` without what a norm's ReLU makes zero, because the largest shift is not enough to lift it above zero."""
    found = dict(ranges)
    for name, extremes in ranges.items():
        norm, _, tensor = name.rpartition("/")
        if tensor == SCALED:
            least = np.maximum(extremes["min"], -np.maximum(ranges[f"{norm}/{SHIFT}"]["max"], 0))
            found[name] = {**extremes, "min": np.minimum(least, extremes["max"])}
    return found


def narrowed(ranges: Ranges, float32: bytes, images: Iterable[np.ndarray]) -> Ranges:
    """`ranges` of the file `float32`, each narrowed to the one by which int8 has the least square error on `images`.

    images: each uint8 [height, width, 3]. Before the first convolution ranges stay: pixels of other images may be any.
    """
    numbers = _from_the_first_convolution(float32)
    ends = {name: _ends(ranges[name]) for name in numbers if name in ranges}
    ends = {name: (least, largest) for name, (least, largest) in ends.items() if least < largest}
    counts = {name: np.zeros(STEPS * PARTS + 1, np.int64) for name in ends}
    for value in values(float32, tqdm(images, "narrow ranges", leave=False, disable=None)):
        for name, (least, largest) in ends.items():
            places = np.rint((_sample(value(numbers[name])) - least) * (STEPS * PARTS / (largest - least)))
            # The image that calibrates first has its corners changed: values here may lie outside.
            inside = np.clip(places, 0, STEPS * PARTS).astype(np.int64)
            counts[name] += np.bincount(inside, minlength=STEPS * PARTS + 1)
    best = {name: narrowest(count, *ends[name]) for name, count in counts.items()}
    return ranges | {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in best.items()}


def narrowest(counts: np.ndarray, least: float, largest: float) -> tuple[float, float]:
    """The range around zero and within `least` and `largest` by which int8 has the least square error.

    counts: of values, at places that lie evenly from `least` to `largest`.
    """
    held = np.flatnonzero(counts)
    places, weights = least + (largest - least) * held / (len(counts) - 1), counts[held]

    def error(ends: tuple[float, float]) -> float:
        low, high = ends
        step = (high - low) / STEPS
        zero = np.rint(-low / step)
        given = (np.clip(np.rint(places / step) + zero, 0, STEPS) - zero) * step
        return float(weights @ np.square(given - places))

    low, high = least, largest
    for _ in range(2):
        high = min(((low, share * largest) for share in SHARES if largest), key=error, default=(low, high))[1]
        low = min(((share * least, high) for share in SHARES if least), key=error, default=(low, high))[0]
    return low, high


def _from_the_first_convolution(float32: bytes) -> dict[str, int]:
    """Numbers of the outputs of all operators from there on, by name."""
    model = schema.Model.GetRootAs(float32)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    codes = [model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() for operator in operators]
    first = next(place for place, code in enumerate(codes) if code in CODES)
    outputs = [operator.Outputs(0) for operator in operators[first:]]
    return {graph.Tensors(number).Name().decode(): number for number in outputs}


def _sample(values: np.ndarray) -> np.ndarray:
    """Some SAMPLE of the values, or all if there are no more, at a stride that meets every channel, the last axis."""
    stride = -(-values.size // SAMPLE)
    while math.gcd(stride, values.shape[-1]) > 1:
        stride += 1
    return values.ravel()[::stride]


def _ends(extremes: QSV) -> tuple[float, float]:
    """The least and the largest value, zero among them, as the quantizers have it."""
    return min(float(extremes["min"].item()), 0.0), max(float(extremes["max"].item()), 0.0)
