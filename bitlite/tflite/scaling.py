"""Powers of two that keep BiT's activations within float16's range, where GPUs and ARMv8.2 compute in it.

A standardised kernel of n weights for each output makes values sqrt(n) times as large as those it reads: their squares,
which a norm averages, leave the range of float16 (65,504). A norm divides by the deviation of what it reads, so a
kernel that only norms read can be multiplied by any factor f, if the norm's epsilon is multiplied by f^2: the function
stays the same. By a power of two no weight is rounded, and neither operators nor bytes are added.
"""

import math

import numpy as np

from bitlite.bit.names import FINAL_NORM, ROOT
from bitlite.bit.weights import GROUP_NORM_EPSILON, Bit

# The least that float16 holds beside zero. An epsilon below it would leave a norm of a constant image 0 / 0.
LEAST_EPSILON = 2.0**-24


def powers(bit: Bit) -> dict[str, float]:
    """The power of two by which the values at each path grow: outputs of convolutions, inputs of norms.

    The paths are those of all convolutions that only norms read, and of all norms. All that adds to the residual stream
    has one power. With it values have a deviation near 1 where the network's inputs and normalised activations have.
    """
    found = {}
    widest = width = _gain(bit, ROOT) ** 2
    for unit in bit.units:
        for part, reader in (("a", "b"), ("b", "c")):
            found[unit.conv(part)] = found[unit.norm(reader)] = _inverse(_gain(bit, unit.conv(part)))
        if bit.projects(unit):
            width = _gain(bit, unit.projection) ** 2
        width += _gain(bit, unit.conv("c")) ** 2
        widest = max(widest, width)
    stream = _inverse(math.sqrt(widest))
    for unit in bit.units:
        found[unit.norm("a")] = found[unit.conv("c")] = found[unit.projection] = stream
    return found | {ROOT: stream, FINAL_NORM: stream}


def epsilon(power: float) -> float:
    """The epsilon of a norm whose inputs have grown by `power`."""
    return max(GROUP_NORM_EPSILON * power**2, LEAST_EPSILON)


def _gain(bit: Bit, path: str) -> float:
    """Root mean square of a convolution's outputs for independent inputs of mean square 1."""
    kernel = bit.weights[f"{path}/kernel"]
    return math.sqrt(np.square(kernel, dtype=np.float64).sum() / kernel.shape[3])


def _inverse(gain: float) -> float:
    """The power of two nearest to 1 / gain; 1 for a kernel of zeros."""
    return 2.0 ** -round(math.log2(gain)) if gain else 1.0
