"""Pruning of a folded BiT: weights to zero (magnitude), or whole groups of inner channels away (channels)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from stages.bit import network
from stages.bit.model import HEAD, ROOT, Bit
from stages.params import Channels, Magnitude

# Sparsity grows over this share of the recovery's steps, while BiT's schedule is at its full rate; then masks stay.
GROWTH = 0.4
MASK_UPDATES = 20

# Trains a model in place, as `training.fit` does.
Fit = Callable[[tf.keras.Model], None]


def prune(bit: Bit, how: Magnitude | Channels, fit: Fit) -> Bit:
    """The folded `bit` pruned as `how` says, and recovered by `fit`."""
    if how.method == "magnitude":
        return magnitude(bit, how.sparsity, steps=how.steps, fit=fit)
    smaller = channels(bit, how.keep)
    model = network.build(smaller)
    fit(model)
    return smaller.with_weights(network.get_weights(model))


def magnitude(bit: Bit, sparsity: float, *, steps: int, fit: Fit) -> Bit:
    """`bit` with the smallest weights of every kernel but the root's and the head's set to zero, while it trains on.

    tfmot's prune_low_magnitude with a polynomial schedule (Zhu & Gupta, arXiv:1710.01878) over `steps`; with 0 steps
    the smallest weights go at once.
    """
    import tensorflow_model_optimization as tfmot  # seconds to import, which channels does not need

    if steps:
        end = max(1, round(steps * GROWTH))
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=sparsity / 2, final_sparsity=sparsity,
            begin_step=0, end_step=end, frequency=max(1, end // MASK_UPDATES),
        )  # fmt: skip
    else:
        schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=0, frequency=1)

    model = network.build(bit)

    def wrapped(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if isinstance(layer, tf.keras.layers.Conv2D) and layer.name not in (ROOT, HEAD):
            return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)
        return layer

    # The wrappers share their layers with `model`, which therefore ends up with the pruned weights.
    pruned = tf.keras.models.clone_model(model, clone_function=wrapped)
    updates = tfmot.sparsity.keras.UpdatePruningStep()
    updates.set_model(pruned)
    updates.on_train_begin()
    if steps:
        fit(pruned)
    else:
        pruned(np.zeros((1, *bit.architecture.image_size, 3), np.float32), training=True)
    updates.on_epoch_end(batch=None)
    return bit.with_weights(network.get_weights(model))


def channels(bit: Bit, keep: float) -> Bit:
    """A smaller BiT: of the channels inside every bottleneck the most important share `keep` stays.

    Only whole GroupNorm groups go, so that the groups that stay are normalised exactly as before; at least one group
    of every norm stays.
    """
    weights = dict(bit.weights)
    for unit in bit.units:
        # The norm of b lies between convolutions a and b, the norm of c between b and c.
        for before, after in (("a", "b"), ("b", "c")):
            norm = f"{unit.prefix}/{after}/group_norm"
            kept = important_channels(
                gamma=bit.weights[f"{norm}/gamma"],
                reader=bit.weights[f"{unit.prefix}/{after}/standardized_conv2d/kernel"],
                groups=bit.groups(norm),
                keep=keep,
            )
            for name, axis in {
                f"{unit.prefix}/{before}/standardized_conv2d/kernel": 3,
                f"{norm}/gamma": 0,
                f"{norm}/beta": 0,
                f"{unit.prefix}/{after}/standardized_conv2d/kernel": 2,
            }.items():
                weights[name] = np.take(weights[name], kept, axis)
    return bit.with_weights(weights)


def important_channels(gamma: np.ndarray, reader: np.ndarray, groups: int, keep: float) -> np.ndarray:
    """Sorted indices of the channels in the most important groups.

    A channel counts as much as it can add to the convolution that reads it: its `gamma` [channels] times the norm of
    the weights of `reader` [height, width, channels, outputs] behind it.
    """
    size = gamma.size // groups
    importance = (gamma * np.sqrt(np.sum(reader.astype(np.float64) ** 2, axis=(0, 1, 3)))) ** 2
    ranked = np.argsort(-importance.reshape(groups, size).sum(axis=1), kind="stable")
    kept_groups = np.sort(ranked[: max(1, round(groups * keep))])
    return (kept_groups[:, None] * size + np.arange(size)).ravel()
