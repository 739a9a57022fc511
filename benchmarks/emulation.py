"""A lowered BiT computed in float16 by NumPy: each result and each sum is rounded."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bitlite.tflite.graph import RELU, SAME, Graph, Operator


def outputs(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Outputs [images, classes] of a graph for images [images, height, width, 3] in 0..255.

    Values beyond float16's range become infinite, as they do on a device.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([_output(graph, image[None]) for image in images])


def _output(graph: Graph, image: np.ndarray) -> np.ndarray:
    values = {graph.input: _half(image)}
    for operator in graph.operators:
        inputs = [values[each] if each.data is None else each.data for each in operator.inputs]
        result = _half(OPERATORS[operator.type](operator, *(x if x.dtype.kind == "i" else _half(x) for x in inputs)))
        if operator.options.get("fusedActivationFunction") == RELU:
            result = np.maximum(result, 0)
        values[operator.output] = result.reshape(operator.output.shape)
    return values[graph.output]


def _half(x: np.ndarray) -> np.ndarray:
    """Values that float16 has, in float32."""
    return np.asarray(x, np.float16).astype(np.float32)


def _convolution(operator: Operator, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    side, stride = kernel.shape[1], operator.options["strideH"]
    if operator.options["padding"] == SAME:
        lost = [max((-(-length // stride) - 1) * stride + side - length, 0) for length in x.shape[1:3]]
        x = np.pad(x, [(0, 0), *((each // 2, each - each // 2) for each in lost), (0, 0)])
    windows = sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]  # [1, h, w, C, side, side]
    return _half(np.tensordot(windows, kernel, axes=([3, 4, 5], [3, 1, 2]))) + bias


def _mean(operator: Operator, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    total = _half(x.sum(axis=tuple(axes), keepdims=True))
    return total * (total.size / x.size)


def _max_pool(operator: Operator, x: np.ndarray) -> np.ndarray:
    side, stride = operator.options["filterHeight"], operator.options["strideH"]
    return sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride].max(axis=(4, 5))


def _slice(operator: Operator, x: np.ndarray, begin: np.ndarray, size: np.ndarray) -> np.ndarray:
    return x[tuple(slice(first, first + length) for first, length in zip(begin, size, strict=True))]


OPERATORS = {
    "ADD": lambda _, a, b: a + b,
    "CONCATENATION": lambda operator, *parts: np.concatenate(parts, operator.options["axis"]),
    "CONV_2D": _convolution,
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "MUL": lambda _, a, b: a * b,
    "PAD": lambda _, x, margins: np.pad(x, margins),
    "RESHAPE": lambda _, x, shape: x.reshape(shape),
    "RSQRT": lambda _, x: 1 / np.sqrt(x),
    "SLICE": _slice,
    "SUB": lambda _, a, b: a - b,
}
