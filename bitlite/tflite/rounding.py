"""Weights rounded so that their errors cancel out on images, instead of each to its nearest step. No TensorFlow.

Frantar et al., "GPTQ", arXiv:2210.17323, after Hassibi & Stork's optimal brain surgeon: the weights of a kernel are
rounded one after the other, and those that are left make up for what each loses on the values that the kernel reads.
Scales stay those of the file, which its quantizer has chosen.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bitlite.litert.operators import convolutions
from bitlite.tflite.convolutions import values
from bitlite.tflite.flatbuffer import rewritten

# Of the mean square of what a kernel reads, added to each square: without, inputs that always go together would let
# weights grow without bound.
DAMPING = 0.01
# Of a kernel's places in an image, at most, that are read: random ones.
PLACES = 256
# Weights that are rounded before all behind them make up for them.
BLOCK = 64


class Layer(NamedTuple):
    """An operator with a kernel in the float32 file: number of the tensor that it reads, its kernel and options."""

    input: int
    kernel: np.ndarray
    options: schema.Conv2DOptionsT | schema.DepthwiseConv2DOptionsT | schema.FullyConnectedOptionsT


def compensated(content: bytes, float32: bytes, images: Iterable[np.ndarray]) -> bytes:
    """The quantized file `content` of `float32` with the integers of its kernels rounded anew; zeros stay zeros.

    images: uint8 [height, width, 3] in 0..255, on which the errors cancel out.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    graph, layers = model.subgraphs[0], _layers(float32)
    quantized = {
        graph.tensors[each.outputs[0]].name.decode(): graph.tensors[each.inputs[1]] for each in convolutions(model)
    }
    chosen = {name: layer for name, layer in layers.items() if _bits(quantized.get(name))}
    if not chosen:
        return content
    # Sums must not depend on the machine's number of processors.
    with threadpool_limits(1):
        products = _products(float32, chosen, images)
        for name, layer in tqdm(chosen.items(), "round weights", leave=False, disable=None):
            tensor, bits = quantized[name], _bits(quantized[name])
            weights = layer.kernel.reshape(len(layer.kernel), -1)  # [outputs, weights of one]
            integers = rounded(weights, products.pop(name), tensor.quantization.scale, 2 ** (bits - 1) - 1)
            model.buffers[tensor.buffer].data = _packed(integers.ravel(), bits)
    return rewritten(model, len(content))


def rounded(weights: np.ndarray, products: np.ndarray, scales: np.ndarray, most: int) -> np.ndarray:
    """Integers int8 [outputs, inputs] in -most..most whose product with `scales` [outputs] stands for `weights`.

    products: the sum of x x^T [inputs, inputs] over the vectors x that the weights are multiplied by.
    """
    products = products.astype(np.float64)
    count = len(products)
    products += DAMPING * max(np.trace(products) / count, 1e-12) * np.eye(count)
    order = np.argsort(-np.diag(products), kind="stable")
    # An output without weights has a scale of 0.
    left = weights.T[order] / np.where(scales == 0, 1, scales).astype(np.float64)  # [inputs, outputs], in steps
    zeros = left == 0
    # Row k of the factor tells how the weights behind k make up for an error of k.
    factor = np.linalg.cholesky(np.linalg.inv(products[order][:, order])).T
    integers = np.empty(left.shape, np.int8)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.empty((end - start, left.shape[1]))
        for k in range(start, end):
            integers[k] = np.where(zeros[k], 0, np.clip(np.rint(left[k]), -most, most))
            errors[k - start] = (left[k] - integers[k]) / factor[k, k]
            left[k + 1 : end] -= np.outer(factor[k, k + 1 : end], errors[k - start])
        left[end:] -= factor[start:end, end:].T @ errors
    return integers[np.argsort(order)].T


def _layers(float32: bytes) -> dict[str, Layer]:
    """By the names of their outputs."""
    model = schema.ModelT.InitFromPackedBuf(float32)
    (graph,) = model.subgraphs
    found = {}
    for operator in convolutions(model):
        kernel = graph.tensors[operator.inputs[1]]
        held = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.float32).reshape(kernel.shape)
        name = graph.tensors[operator.outputs[0]].name.decode()
        found[name] = Layer(operator.inputs[0], held, operator.builtinOptions)
    return found


def _products(float32: bytes, layers: dict[str, Layer], images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """For each layer the sum of x x^T over places and images, where x is what its kernel reads at a place."""
    sums = {name: np.zeros((layer.kernel[0].size,) * 2, np.float32) for name, layer in layers.items()}
    random = np.random.default_rng(0)
    for value in values(float32, tqdm(images, "read images", leave=False, disable=None)):
        for name, layer in layers.items():
            rows = _rows(value(layer.input), layer, random)
            sums[name] += rows.T @ rows
    return sums


def _rows(image: np.ndarray, layer: Layer, random: np.random.Generator) -> np.ndarray:
    """What the kernel reads at its places, PLACES of them if there are more: [places, weights of an output].

    image: [1, height, width, inputs].
    """
    if layer.kernel.ndim == 2:  # a dense layer reads one pixel
        side, stride = (1, 1), 1
    else:
        _, height, width, _ = layer.kernel.shape
        side, stride = (height, width), layer.options.strideH
        if layer.options.padding == schema.Padding.SAME:  # of stride 1, and odd sides
            image = np.pad(image, ((0, 0), *((length // 2,) * 2 for length in side), (0, 0)))
    windows = sliding_window_view(image[0], side, axis=(0, 1))[::stride, ::stride]  # [H, W, inputs, *side]
    count = windows.shape[0] * windows.shape[1]
    places = random.choice(count, PLACES, replace=False) if count > PLACES else np.arange(count)
    chosen = windows[np.unravel_index(places, windows.shape[:2])]  # [places, inputs, *side]
    return chosen.transpose(0, 2, 3, 1).reshape(len(places), -1)


def _bits(tensor: schema.TensorT | None) -> int:
    """Bits of a kernel's integers; 0 of one that has none."""
    types = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4}
    return types.get(tensor.type, 0) if tensor else 0


def _packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """The bytes of integers: of 4 bits two in a byte, the first in its lower half."""
    if bits == 8:
        return integers.view(np.uint8)
    nibbles = integers.view(np.uint8) & 15
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return nibbles[::2] | nibbles[1::2] << 4
