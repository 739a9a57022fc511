"""Pruning of a folded BiT: weights to zero (magnitude, n_m), or channels and units away for real (channels, units)."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatch

import numpy as np
import tensorflow as tf

from stages import InputError
from stages.bit import network
from stages.bit.model import HEAD, ROOT, Bit
from stages.params import NM, Channels, Combine, Magnitude, Pruning, Units

# Sparsity grows over this share of the recovery's steps, while BiT's schedule is at its full rate; then masks stay.
GROWTH = 0.4
MASK_UPDATES = 20

# Trains a model in place for the steps that the entry asks for, as `training.fit` does.
Fit = Callable[[tf.keras.Model, Pruning], None]
# Some batches of training images float32 [batch, height, width, 3] in 0..255, and targets [batch, classes].
Batches = Iterable[tuple[np.ndarray, np.ndarray]]


def prune(bit: Bit, how: Pruning, batches: Callable[[], Batches], fit: Fit | None) -> Bit:
    """The folded `bit` pruned as `how` says and recovered by `fit`; pruned at once and not recovered without `fit`.

    `batches` gives what importance is measured on. Raises InputError, before any training, if `how` can't be done.
    """
    match how:
        case Combine():
            for part in how.parts:
                bit = prune(bit, part, batches, fit)
            return bit
        case Magnitude() | NM():
            return zeroed(bit, how, fit if how.steps else None)
        case Channels():
            smaller = channels(bit, how, batches)
        case Units():
            smaller = without_units(bit, how.remove, batches)
    if not fit or not how.steps:
        return smaller
    model = network.build(smaller)
    fit(model, how)
    return smaller.with_weights(network.get_weights(model))


# Zeros


def zeroed(bit: Bit, how: Magnitude | NM, fit: Fit | None) -> Bit:
    """`bit` with the smallest weights of its kernels set to zero, while `fit` trains it on, or at once without `fit`.

    tfmot's prune_low_magnitude: the share `how.sparsity` of each kernel, by default with a polynomial schedule (Zhu &
    Gupta, arXiv:1710.01878), or `how.zeros` of every `how.of` consecutive inputs.
    """
    import tensorflow_model_optimization as tfmot  # seconds to import, which channels and units do not need

    chosen = prunable(bit, how.layers)
    keras = tfmot.sparsity.keras
    end = max(1, round(how.steps * GROWTH))
    if isinstance(how, NM):
        pattern, sparsity, gradual = {"sparsity_m_by_n": (how.zeros, how.of)}, how.zeros / how.of, False
        for layer in sorted(chosen):  # the same one is named every time
            inputs = bit.weights[f"{layer}/kernel"].shape[2]
            if inputs % how.of:
                raise InputError(f"{how.zeros} of {how.of} weights can't be zero in {layer}, which has {inputs} inputs")
    else:
        pattern, sparsity, gradual = {}, how.sparsity, how.schedule == "polynomial"
    if not fit:
        schedule = keras.ConstantSparsity(sparsity, begin_step=0, frequency=1)
    elif gradual:
        schedule = keras.PolynomialDecay(sparsity / 2, sparsity, 0, end, frequency=max(1, end // MASK_UPDATES))
    else:
        schedule = keras.ConstantSparsity(sparsity, 0, end, frequency=max(1, end // MASK_UPDATES))

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
    layers = [layer for layer, _ in bit.output_sizes()]
    if patterns is None:
        return set(layers) - {ROOT, HEAD}
    for pattern in patterns:
        if not any(fnmatch(layer, pattern) for layer in layers):
            raise InputError(f"layers has {pattern!r}, which matches none of BiT's convolutions, such as {layers[1]}")
    return {layer for layer in layers if any(fnmatch(layer, pattern) for pattern in patterns)}


# Channels


def channels(bit: Bit, how: Channels, batches: Callable[[], Batches]) -> Bit:
    """A smaller BiT: of the channels inside the bottlenecks the most important stay.

    Only whole GroupNorm groups go, so that the groups that stay are normalised exactly as before; at least one group
    of every norm stays. `how.keep` is the share of every norm that stays. With `how.target_macs` or
    `how.target_parameters`, shares of what the convolutions of `bit` have, each norm's share follows from importance:
    groups go in the order of the importance that is lost for each multiply-add or weight saved. Raises InputError if
    the target is out of reach, with what is in reach.
    """
    scores = taylor(bit, batches()) if how.importance == "taylor" else norms(bit)
    if how.keep is not None:
        kept = {norm: best(score, max(1, round(len(score) * how.keep))) for norm, score in scores.items()}
    else:
        kept = within_target(bit, how, scores)
    return with_groups(bit, kept)


def inner_norms(bit: Bit) -> list[str]:
    """Paths of the norms inside the bottlenecks, whose channels can go: before convolutions b and c."""
    return [f"{unit.prefix}/{conv}/group_norm" for unit in bit.units for conv in "bc"]


def norms(bit: Bit) -> dict[str, np.ndarray]:
    """Importance [groups] of each group of the inner norms, by weight: shares of all that their norm lets through.

    A channel counts as much as it can add to the convolution that reads it: its gamma times the norm of the weights
    behind it, squared.
    """
    found = {}
    for norm in inner_norms(bit):
        reader = bit.weights[f"{norm.removesuffix('group_norm')}standardized_conv2d/kernel"].astype(np.float64)
        energy = bit.weights[f"{norm}/gamma"].astype(np.float64) ** 2 * np.sum(reader**2, axis=(0, 1, 3))
        score = energy.reshape(bit.groups(norm), -1).sum(axis=1)
        found[norm] = score / score.sum()
    return found


def taylor(bit: Bit, batches: Batches) -> dict[str, np.ndarray]:
    """Importance [groups] of each group of the inner norms, by data: the squared change of the loss without the group.

    To first order (Molchanov et al., arXiv:1906.10771): without a channel its gamma and beta are 0, so the loss
    changes by their gradients times themselves. The mean over `batches`.
    """
    model = network.build(bit)
    variables = {network.name_of(variable): variable for variable in model.trainable_variables}
    watched = [(variables[f"{norm}/gamma"], variables[f"{norm}/beta"]) for norm in inner_norms(bit)]

    @tf.function
    def changes(pixels, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, model(pixels, training=False)))
        return [
            gamma * by_gamma + beta * by_beta
            for (gamma, beta), (by_gamma, by_beta) in zip(watched, tape.gradient(loss, watched), strict=True)
        ]

    found = {norm: [] for norm in inner_norms(bit)}
    for pixels, targets in batches:
        for norm, change in zip(found, changes(pixels, targets), strict=True):
            found[norm].append(change.numpy().astype(np.float64).reshape(bit.groups(norm), -1).sum(axis=1) ** 2)
    return {norm: np.mean(squares, axis=0) for norm, squares in found.items()}


def within_target(bit: Bit, how: Channels, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sorted indices of the groups of each norm that stay, so that the target of `how` is met and no group too many."""
    key, target = ("target_macs", how.target_macs) if how.target_macs else ("target_parameters", how.target_parameters)
    counts = {norm: len(score) for norm, score in scores.items()}
    whole = cost(bit, counts, counts, how.target_macs is not None)

    def saving(norm: str) -> float:
        return whole - cost(bit, counts | {norm: counts[norm] - 1}, counts, how.target_macs is not None)

    savings = {norm: saving(norm) for norm in scores}
    ranked = sorted(
        (value / savings[norm], norm, group) for norm, score in scores.items() for group, value in enumerate(score)
    )
    kept = {norm: set(range(count)) for norm, count in counts.items()}
    now = whole
    for _, norm, group in ranked:
        if now <= target * whole:
            break
        if len(kept[norm]) > 1:
            kept[norm].remove(group)
            now = cost(bit, {name: len(groups) for name, groups in kept.items()}, counts, how.target_macs is not None)
    if now > target * whole:
        raise InputError(f"{key} is {target:g}, but channels can't bring it below {now / whole:.3f}")
    return {norm: np.array(sorted(groups)) for norm, groups in kept.items()}


def cost(bit: Bit, kept: dict[str, int], of: dict[str, int], in_macs: bool) -> float:
    """Multiply-adds of an image, or weights, of the convolutions with `kept` groups `of` those in each inner norm."""
    share = {norm: kept[norm] / of[norm] for norm in kept}
    total = 0.0
    for layer, (height, width) in bit.output_sizes():
        unit, _, conv = layer.removesuffix("/standardized_conv2d").rpartition("/")
        after = f"{unit}/{chr(ord(conv[0]) + 1)}/group_norm" if conv in ("a", "b") else ""
        size = bit.weights[f"{layer}/kernel"].size * share.get(f"{unit}/{conv}/group_norm", 1) * share.get(after, 1)
        total += size * (height * width if in_macs else 1)
    return total


def with_groups(bit: Bit, kept: dict[str, np.ndarray]) -> Bit:
    """`bit` with only the groups `kept` of its inner norms: cut out of all weights that they reach."""
    weights = dict(bit.weights)
    for unit in bit.units:
        for before, after in (("a", "b"), ("b", "c")):
            norm = f"{unit.prefix}/{after}/group_norm"
            size = bit.weights[f"{norm}/gamma"].size // bit.groups(norm)
            stay = (kept[norm][:, None] * size + np.arange(size)).ravel()
            for name, axis in {
                f"{unit.prefix}/{before}/standardized_conv2d/kernel": 3,
                f"{norm}/gamma": 0,
                f"{norm}/beta": 0,
                f"{unit.prefix}/{after}/standardized_conv2d/kernel": 2,
            }.items():
                weights[name] = np.take(weights[name], stay, axis)
    return bit.with_weights(weights)


def best(score: np.ndarray, count: int) -> np.ndarray:
    """Sorted indices of the `count` highest scores."""
    return np.sort(np.argsort(-score, kind="stable")[:count])


# Units


def without_units(bit: Bit, remove: int, batches: Callable[[], Batches]) -> Bit:
    """`bit` without those residual units whose absence raises the loss on `batches` least, each by itself.

    Only units whose shortcut is the identity can go. Raises InputError if there are fewer than `remove`.
    """
    removable = [unit.prefix for unit in bit.units if not unit.projected]
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
