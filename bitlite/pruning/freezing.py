"""Norms frozen: their statistics become constants, fitted to training images."""

from collections.abc import Collection, Iterable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.training.batches import Batch


class _Fitted(network.GroupNorm):
    """A GroupNorm, or while it is `frozen` the linear regression of its outputs on its inputs.

    That is for each channel over all pixels of the images it is called with, by the `factors` and `offsets` [channels].
    """

    frozen = False

    def call(self, inputs):
        outputs = super().call(inputs)  # [images, height, width, channels]
        if not self.frozen:
            return outputs
        axes = [0, 1, 2]
        mean, variance = tf.nn.moments(inputs, axes)
        mean_output = tf.reduce_mean(outputs, axes)
        covariance = tf.reduce_mean((inputs - mean) * (outputs - mean_output), axes)
        self.factors = tf.math.divide_no_nan(covariance, variance)
        self.offsets = mean_output - mean * self.factors
        return inputs * self.factors + self.offsets


def frozen(bit: Bit, norms: Collection[str], batches: Iterable[Batch]) -> Bit:
    """`bit` with these of its norms frozen, as near to what they were on the images of `batches` as constants come.

    Front to back: each is fitted in the network whose earlier norms are frozen already. Gammas stay about as large as
    they were, so that training goes on at its pace.
    """
    model, (pixels, _) = _fitted(bit), _joined(batches)
    for path in norms:
        model.get_layer(path).frozen = True
    model(pixels)
    weights, deviations = dict(bit.weights), dict(bit.architecture.frozen_norms)
    for path in norms:
        layer = model.get_layer(path)
        factors, offsets = layer.factors.numpy(), layer.offsets.numpy()  # [channels]
        deviations[path] = _deviation(bit.weights[f"{path}/gamma"], factors)
        weights |= {f"{path}/gamma": factors * np.float32(deviations[path]), f"{path}/beta": offsets}
    return bit.with_weights(weights, frozen_norms=deviations)


def rises_frozen(bit: Bit, batches: Iterable[Batch], norms: Collection[str]) -> dict[str, float]:
    """By how much the mean cross-entropy on all images of `batches` rises with each of these norms alone frozen."""
    model, (pixels, targets) = _fitted(bit), _joined(batches)

    def loss() -> float:
        return float(tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, model(pixels))))

    exact, rises = loss(), {}
    for path in norms:
        layer = model.get_layer(path)
        layer.frozen = True
        rises[path] = loss() - exact
        layer.frozen = False
    return rises


def _fitted(bit: Bit) -> tf.keras.Model:
    """The network of `bit` with norms that can be frozen. It is to be called with all images at once."""

    def fitted(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        return _Fitted(layer.groups, name=layer.name) if isinstance(layer, network.GroupNorm) else layer

    model = tf.keras.models.clone_model(network.build(bit), clone_function=fitted)
    network.set_weights(model, bit.weights)
    return model


def _joined(batches: Iterable[Batch]) -> Batch:
    pixels, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return pixels, targets


def _deviation(gamma: np.ndarray, factors: np.ndarray) -> float:
    """The power of two, which rounds no weight, by which `factors` [channels] become about as large as `gamma`."""
    alive = (factors != 0) & (gamma != 0)
    return 2.0 ** round(np.log2(np.median(np.abs(gamma[alive] / factors[alive])))) if alive.any() else 1.0
