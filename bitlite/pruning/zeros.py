"""Weights to zero: the smallest of each kernel (magnitude), or so many of every few (n_m). By tfmot."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.pruning.rehearsal import pruned_kernels
from bitlite.workflow.params import NM, Magnitude

# Sparsity grows over this share of the recovery's steps; then masks stay.
GROWTH = 0.4
MASK_UPDATES = 20


def zeroed(
    bit: Bit, entry: Magnitude | NM, steps: int = 0, fit: Callable[[tf.keras.Model], None] = lambda model: None
) -> Bit:
    """The folded `bit` with the smallest weights of its kernels set to zero while `fit` trains it on for `steps`.

    Without steps the zeros come at once, and `fit` is not called.

    tfmot's prune_low_magnitude: the share `entry.sparsity` of each kernel, by default with a polynomial schedule (Zhu &
    Gupta, arXiv:1710.01878), or `entry.zeros` of every `entry.of` consecutive inputs. Raises WrongValue as
    `pruned_kernels` does.
    """
    import tensorflow_model_optimization as tfmot  # takes seconds to import, which channels and units do not need

    keras = tfmot.sparsity.keras
    chosen = pruned_kernels(bit, entry)
    if isinstance(entry, NM):
        pattern, sparsity, gradual = {"sparsity_m_by_n": (entry.zeros, entry.of)}, entry.zeros / entry.of, False
    else:
        pattern, sparsity, gradual = {}, entry.sparsity, entry.schedule == "polynomial"
    end = max(1, round(steps * GROWTH))
    every = max(1, end // MASK_UPDATES)
    if steps and gradual:
        schedule = keras.PolynomialDecay(sparsity / 2, sparsity, 0, end, frequency=every)
    else:
        schedule = keras.ConstantSparsity(sparsity, 0, end if steps else -1, frequency=every)

    model = network.build(bit)

    def wrapped(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        return keras.prune_low_magnitude(layer, schedule, **pattern) if layer.name in chosen else layer

    # The wrappers share their layers with `model`, which therefore ends up with the pruned weights.
    wrapping = tf.keras.models.clone_model(model, clone_function=wrapped)
    updates = keras.UpdatePruningStep()
    updates.set_model(wrapping)
    updates.on_train_begin()
    if steps:
        fit(wrapping)
    else:
        wrapping(np.zeros((1, *bit.architecture.image_size, 3), np.float32), training=True)
    updates.on_epoch_end(batch=None)
    return bit.with_weights(network.get_weights(model))
