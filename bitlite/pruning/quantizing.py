"""Training under the rounding of quantized files: their weights on int8's or int4's grid, their ranges learnt.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877.
"""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.names import FEATURES, PIXELS, ROOT
from bitlite.bit.weights import ENDS, Bit
from bitlite.tflite import conversion, convolutions
from bitlite.training.batches import Batch
from bitlite.workflow.params import Quantize, Uncalibrated

# Pixels lie half way between int8's steps of -1..1. In steps that are a little wider it is sure to which they round.
PIXEL_RANGE = (-1.002, 1.002)
# Of the way from zero to the extremes of a layer: 1, 0.95 and so on.
SHARES = np.linspace(1, 0.4, 13)


def quantized(bit: Bit, entry: Quantize, batches: Iterable[Batch]) -> Bit:
    """The folded `bit` with kernels of so many bits and, if `entry` has activations of int8, ranges by `batches`."""
    rounded = _rounded(bit, _bits(bit, entry))
    return with_ranges(rounded, batches) if entry.activations == 8 else rounded


def trained(bit: Bit, at_once: Bit, entry: Quantize, fit: Callable[[tf.keras.Model], None]) -> Bit:
    """`at_once`, which `quantized` made of `bit`, after `fit` has trained it from the weights that `bit` has."""
    bits = _bits(bit, entry)
    model = network.build(at_once.with_weights(at_once.weights | bit.weights), bits)
    fit(model)
    return _rounded(at_once.with_weights(network.get_weights(model)), bits)


def _bits(bit: Bit, entry: Quantize) -> dict[str, int]:
    """The bits of all kernels, by path: 4 for those that the scheme int4 gives 4."""
    if entry.weights == 8:
        return dict.fromkeys(bit.paths, 8)
    found = convolutions.find(conversion.convert(bit, Uncalibrated(scheme="int4")), bit.paths)
    return {path: 4 if layer.type == "int4" else 8 for path, layer in found.items()}


def _rounded(bit: Bit, bits: dict[str, int]) -> Bit:
    kernels = {f"{path}/kernel": network.rounded(bit.weights[f"{path}/kernel"], bits[path]).numpy() for path in bits}
    return bit.with_weights(bit.weights | kernels)


def with_ranges(bit: Bit, batches: Iterable[Batch]) -> Bit:
    """`bit` with ranges of what `held` names, by the images of `batches`: those of the least squared error by rounding.

    They go from the least to the largest value, and zero, or as far as one of SHARES of both: what is rare is cut off,
    and the steps between are smaller.
    """
    names, images = held(bit), [pixels for pixels, _ in batches]
    model = network.build(bit)
    watched = tf.keras.Model(model.input, [model.get_layer(name).output for name in names])
    extremes = np.array([[(np.min(each), np.max(each)) for each in watched(pixels)] for pixels in images])
    least, largest = extremes[..., 0].min(axis=0, initial=0), extremes[..., 1].max(axis=0, initial=0)  # [layers]
    tried = np.stack([least, largest], axis=1)[:, None] * SHARES[:, None]  # [layers, shares, 2]
    errors = np.zeros(tried.shape[:2])
    for pixels in images:
        for place, values in enumerate(watched(pixels)):
            errors[place] += [tf.reduce_mean((network.in_int8(values, *ends) - values) ** 2) for ends in tried[place]]
    ranges = dict(zip(names, tried[range(len(names)), errors.argmin(axis=1)], strict=True)) | {PIXELS: PIXEL_RANGE}
    ends = {
        f"{name}/range/{end}": value for name, pair in ranges.items() for end, value in zip(ENDS, pair, strict=True)
    }
    return bit.with_weights(bit.weights | {name: np.asarray(value, np.float32) for name, value in ends.items()})


def held(bit: Bit) -> list[str]:
    """The layers of the network whose outputs files of int8 hold, and training can see."""
    # A frozen norm goes into the convolution before it, as lowering's folded_norm has it.
    readers = {} if bit.architecture.pool else {ROOT: bit.units[0].norm("a")}
    readers |= {unit.conv(part): unit.norm(reader) for unit in bit.units for part, reader in ("ab", "bc")}
    frozen = bit.architecture.frozen_norms
    convolutions = [path for path in bit.paths if readers.get(path) not in frozen]
    return [PIXELS, *convolutions, *(f"{norm}/relu" for norm in bit.norms), FEATURES]
