"""Norms frozen: their statistics become constants, fitted on training images."""

import math
from collections.abc import Collection, Iterable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.training.batches import Batch


class _Freezing(network.GroupNorm):
    """A GroupNorm that is replaced by the multiply and add nearest to it on the images it is called with."""

    def call(self, inputs):
        outputs = super().call(inputs)  # [images, height, width, channels]
        means, variances = tf.nn.moments(inputs, axes=[0, 1, 2])  # [channels]
        means_out = tf.reduce_mean(outputs, axis=[0, 1, 2])
        covariances = tf.reduce_mean((inputs - means) * (outputs - means_out), axis=[0, 1, 2])
        scale = tf.math.divide_no_nan(covariances, variances)
        shift = means_out - means * scale
        self.constants = scale, shift
        return inputs * scale + shift


def frozen(bit: Bit, norms: Collection[str], batches: Iterable[Batch]) -> Bit:
    """`bit` with these of its norms frozen, each to the linear regression of its outputs on its inputs.

    For each channel, over all pixels of the images of `batches`; front to back, each in the network whose earlier norms
    are frozen already.
    """
    model = network.build(bit)

    def freezing(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if layer.name not in norms:
            return layer
        return _Freezing(layer.groups, name=layer.name)

    changed = tf.keras.models.clone_model(model, clone_function=freezing)
    network.set_weights(changed, bit.weights)
    changed(np.concatenate([pixels for pixels, _ in batches]))
    weights, deviations = dict(bit.weights), dict(bit.architecture.frozen_norms)
    for path in norms:
        scale, shift = (each.numpy() for each in changed.get_layer(path).constants)
        gamma = bit.weights[f"{path}/gamma"]
        ratio = np.median(np.abs(gamma[scale != 0] / scale[scale != 0])) if np.any(scale) else 1.0
        deviations[path] = 2.0 ** round(math.log2(ratio))
        weights[f"{path}/gamma"] = (scale * deviations[path]).astype(np.float32)
        weights[f"{path}/beta"] = shift
    return bit.with_weights(weights, frozen_norms=deviations)
