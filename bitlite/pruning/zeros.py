"""Weights to zero: the smallest of the kernels (magnitude), or so many of every few (n_m). By tfmot."""

from collections.abc import Callable, Iterable

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

    tfmot's prune_low_magnitude: a share of each kernel, by default with a polynomial schedule (Zhu & Gupta,
    arXiv:1710.01878), or `entry.zeros` of every `entry.of` consecutive inputs. Raises WrongValue as `pruned_kernels`
    does.
    """
    import tensorflow_model_optimization as tfmot  # takes seconds to import, which channels and units do not need

    keras = tfmot.sparsity.keras
    chosen = pruned_kernels(bit, entry)
    if isinstance(entry, NM):
        shares, gradual = dict.fromkeys(chosen, entry.zeros / entry.of), False
        pattern = {"sparsity_m_by_n": (entry.zeros, entry.of)}
    else:
        shares, gradual = sparsities(bit, chosen, entry), entry.schedule == "polynomial"
        pattern = {}
    end = max(1, round(steps * GROWTH))
    every = max(1, end // MASK_UPDATES)

    model = network.build(bit)

    def wrapped(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if layer.name not in chosen:
            return layer
        share = shares[layer.name]
        if steps and gradual:
            schedule = keras.PolynomialDecay(share / 2, share, 0, end, frequency=every)
        else:
            schedule = keras.ConstantSparsity(share, 0, end if steps else -1, frequency=every)
        return keras.prune_low_magnitude(layer, schedule, **pattern)

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


def sparsities(bit: Bit, paths: Iterable[str], entry: Magnitude) -> dict[str, float]:
    """The share of zeros, in [0, 1), that each kernel among `paths` is to have.

    scope model: `entry.sparsity` is that of all together, and zeros go where layer-adaptive magnitude ranks weights
    lowest (LAMP, Lee et al., arXiv:2010.07611). scope kernel: each has it.
    """
    if entry.scope == "kernel":
        return dict.fromkeys(paths, entry.sparsity)
    scores = {path: _adaptive(bit.weights[f"{path}/kernel"]) for path in paths}
    ranked = np.sort(np.concatenate(list(scores.values())))
    least = ranked[min(round(entry.sparsity * ranked.size), ranked.size - 1)]
    return {path: float(np.mean(found < least)) for path, found in scores.items()}


def _adaptive(kernel: np.ndarray) -> np.ndarray:
    """Of each weight, in ascending order: its square as a share of those that are not smaller. The largest has 1."""
    squares = np.sort(kernel.ravel().astype(np.float64) ** 2)
    rest = np.cumsum(squares[::-1])[::-1]
    return np.divide(squares, rest, out=np.ones_like(squares), where=rest > 0)
