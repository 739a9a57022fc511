"""Pruning of a folded BiT: weights to zero (magnitude, n_m), or channels and units away for real (channels, units)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.names import HEAD, ROOT
from bitlite.bit.weights import Bit
from bitlite.pruning.channels import Batches, channels
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import NM, Channels, Combine, Magnitude, Pruning, Units

# Sparsity grows over this share of the recovery's steps; then masks stay.
GROWTH = 0.4
MASK_UPDATES = 20

# Trains a model in place for the steps that the entry asks for, as `training.fit` does.
Fit = Callable[[tf.keras.Model, Pruning], None]


def prune(bit: Bit, how: Pruning, batches: Callable[[], Batches]) -> Bit:
    """The folded `bit` pruned at once as `how` says, not recovered.

    `batches` gives what importance is measured on. Raises InputError if `how` can't be done.
    """
    match how:
        case Combine():
            for part in how.parts:
                bit = prune(bit, part, batches)
            return bit
        case Magnitude() | NM():
            return zeroed(bit, how)
        case Channels():
            return channels(bit, how, batches)
        case Units():
            return without_units(bit, how.remove, batches)


def recover(bit: Bit, pruned: Bit, how: Pruning, batches: Callable[[], Batches], fit: Fit) -> Bit:
    """`pruned`, which `prune` made of the folded `bit`, trained on by `fit`.

    Zeros come while `fit` trains `bit`. Of a combination each part is recovered before the next one prunes.
    """
    match how:
        case Combine():
            for part in how.parts:
                bit = recover(bit, prune(bit, part, batches), part, batches, fit)
            return bit
        case _ if not how.steps:
            return pruned
        case Magnitude() | NM():
            return zeroed(bit, how, fit)
    model = network.build(pruned)
    fit(model, how)
    return pruned.with_weights(network.get_weights(model))


# Zeros


def zeroed(bit: Bit, how: Magnitude | NM, fit: Fit | None = None) -> Bit:
    """`bit` with the smallest weights of its kernels set to zero, while `fit` trains it on, or at once without `fit`.

    tfmot's prune_low_magnitude: the share `how.sparsity` of each kernel, by default with a polynomial schedule (Zhu &
    Gupta, arXiv:1710.01878), or `how.zeros` of every `how.of` consecutive inputs.
    """
    import tensorflow_model_optimization as tfmot  # seconds to import, which channels and units do not need

    chosen = prunable(bit, how.layers)
    keras = tfmot.sparsity.keras
    if isinstance(how, NM):
        pattern, sparsity, gradual = {"sparsity_m_by_n": (how.zeros, how.of)}, how.zeros / how.of, False
        for layer in sorted(chosen):  # the same one is named every time
            inputs = bit.weights[f"{layer}/kernel"].shape[2]
            if inputs % how.of:
                raise InputError(f"{how.zeros} of {how.of} weights can't be zero in {layer}, which has {inputs} inputs")
    else:
        pattern, sparsity, gradual = {}, how.sparsity, how.schedule == "polynomial"
    end = max(1, round(how.steps * GROWTH)) if fit else 0
    every = max(1, end // MASK_UPDATES)
    if fit and gradual:
        schedule = keras.PolynomialDecay(sparsity / 2, sparsity, 0, end, frequency=every)
    else:
        schedule = keras.ConstantSparsity(sparsity, 0, end if fit else -1, frequency=every)

    model = network.build(bit)

    def wrapped(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        return keras.prune_low_magnitude(layer, schedule, **pattern) if layer.name in chosen else layer

    # The wrappers share their layers with `model`, which therefore ends up with the pruned weights.
    pruned = tf.keras.models.clone_model(model, clone_function=wrapped)
    updates = keras.UpdatePruningStep()
    updates.set_model(pruned)
    updates.on_train_begin()
    if fit:
        fit(pruned, how)
    else:
        pruned(np.zeros((1, *bit.architecture.image_size, 3), np.float32), training=True)
    updates.on_epoch_end(batch=None)
    return bit.with_weights(network.get_weights(model))


def prunable(bit: Bit, patterns: tuple[str, ...] | None) -> set[str]:
    """Paths of the convolutions that match a pattern of shell wildcards; without patterns, all but root and head.

    Raises InputError naming a pattern that matches nothing.
    """
    if patterns is None:
        return {convolution.path for convolution in bit.convolutions} - {ROOT, HEAD}
    return set(bit.matching(patterns, "layers"))


# Units


def without_units(bit: Bit, remove: int, batches: Callable[[], Batches]) -> Bit:
    """`bit` without those residual units whose absence raises the loss on `batches` least, each by itself.

    Only units whose shortcut is the identity can go. Raises InputError if there are fewer than `remove`.
    """
    removable = [unit.path for unit in bit.units if not bit.projects(unit)]
    if remove > len(removable):
        raise InputError(f"remove is {remove}, but only {len(removable)} units have an identity shortcut")
    images = list(batches())
    losses = {prefix: mean_loss(without(bit, {prefix}), images) for prefix in removable}
    return without(bit, set(sorted(removable, key=losses.get)[:remove]))


def without(bit: Bit, units: set[str]) -> Bit:
    """`bit` without the units of these paths."""
    return bit.with_weights(
        {name: value for name, value in bit.weights.items() if not any(name.startswith(f"{unit}/") for unit in units)}
    )


def mean_loss(bit: Bit, batches: Batches) -> float:
    """Mean cross-entropy of `bit` on `batches`."""
    model = network.build(bit)
    losses = [tf.nn.softmax_cross_entropy_with_logits(targets, model(pixels)) for pixels, targets in batches]
    return float(np.mean(np.concatenate(losses)))
