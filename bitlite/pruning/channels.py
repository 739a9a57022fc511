"""Channels inside the bottlenecks of a folded BiT: which matter, how many of each norm stay, and the smaller BiT."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.litert import latency
from bitlite.tflite import conversion
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Channels, Scheme

# What a norm keeps at least where shares follow from importance, by what it would keep with one share for all.
FLOORS = (1.0, 0.9, 0.75, 0.5)
# Shares of the multiply-adds at which latency is measured.
GRID = tuple(step / 20 for step in range(1, 20))

# Some batches of training images float32 [batch, height, width, 3] in 0..255, and targets [batch, classes].
Batches = Iterable[tuple[np.ndarray, np.ndarray]]
# Sorted indices of the groups of each inner norm that stay.
Kept = dict[str, np.ndarray]


def channels(bit: Bit, how: Channels, batches: Callable[[], Batches]) -> Bit:
    """A smaller BiT: of the channels inside the bottlenecks the most important stay.

    Only whole GroupNorm groups go, so that the groups that stay are normalised exactly as before; at least one group
    of every norm stays. `how.keep` is the share of every norm that stays; with a target each norm's share follows from
    importance, and the largest BiT that meets the target is taken. Targets are shares of what the convolutions of `bit`
    have (`how.target_macs`, `how.target_parameters`), or of the time that its file takes on this very machine
    (`how.target_latency`), which makes the outcome depend on the machine. Raises InputError if `how.keep` leaves a norm
    nothing, or if a target is out of reach, with what is in reach.
    """
    scores = taylor(bit, batches()) if how.importance == "taylor" else norms(bit)
    if how.keep is not None:
        return with_groups(bit, evenly(bit, scores, how.keep))
    loss = loss_of(bit, list(batches()))
    if how.target_latency is None:
        in_macs = how.target_macs is not None
        target = how.target_macs if in_macs else how.target_parameters
        return with_groups(bit, within(bit, scores, target, in_macs, loss))

    def candidate(macs: float) -> Bit:
        return with_groups(bit, within(bit, scores, macs, True, loss))

    least = least_share(bit, in_macs=True)
    with TemporaryDirectory() as scratch:
        compared = partial(latency_share, other=bit, scratch=Path(scratch))
        return fast_enough(candidate, [macs for macs in GRID if macs >= least], how.target_latency, compared)


# Importance


def norms(bit: Bit) -> dict[str, np.ndarray]:
    """Importance [groups] of each group of the inner norms, by weight: shares of all that their norm lets through.

    A channel counts as much as it can add to the convolution that reads it: its gamma times the norm of the weights
    behind it, squared.
    """
    found = {}
    for norm in bit.inner_norms:
        reader = bit.weights[f"{norm.removesuffix('group_norm')}standardized_conv2d/kernel"].astype(np.float64)
        energy = bit.weights[f"{norm}/gamma"].astype(np.float64) ** 2 * np.sum(reader**2, axis=(0, 1, 3))
        score = energy.reshape(bit.groups(norm), -1).sum(axis=1)
        found[norm] = score / score.sum()
    return found


def taylor(bit: Bit, batches: Batches) -> dict[str, np.ndarray]:
    """Importance [groups] of each group of the inner norms, by data: the squared change of the loss without the group.

    To first order, an image's loss changes by the group's outputs times the loss's gradients by them; the mean of the
    squares over all images (Theis et al., arXiv:1801.05787; Molchanov et al., arXiv:1906.10771).
    """
    model = network.build(bit)
    paths = bit.inner_norms
    watched = tf.keras.Model(model.input, [*(model.get_layer(path).output for path in paths), model.output])

    @tf.function
    def changes(pixels, targets):
        with tf.GradientTape() as tape:
            *outputs, logits = watched(pixels, training=False)
            loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        gradients = tape.gradient(loss, outputs)
        return [tf.reduce_sum(pair[0] * pair[1], axis=[1, 2]) for pair in zip(outputs, gradients, strict=True)]

    squares = {path: [] for path in paths}
    for pixels, targets in batches:
        for path, change in zip(paths, changes(pixels, targets), strict=True):
            by_group = change.numpy().astype(np.float64).reshape(len(pixels), bit.groups(path), -1).sum(axis=2)
            squares[path].append(by_group**2)
    return {path: np.mean(np.concatenate(found), axis=0) for path, found in squares.items()}


def loss_of(bit: Bit, batches: Batches) -> Callable[[Kept], float]:
    """A function of the groups that stay: the mean cross-entropy on `batches` of `bit` with them alone."""
    model = network.build(bit)
    variables = {network.name_of(variable): variable for variable in model.weights}
    forward = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)

    def loss(kept: Kept) -> float:
        for norm, groups in kept.items():
            # A group whose gamma and beta are 0 gives nothing: as if it were cut out.
            stays = np.isin(np.arange(bit.groups(norm)), groups)
            for name in (f"{norm}/gamma", f"{norm}/beta"):
                by_group = bit.weights[name].reshape(len(stays), -1)
                variables[name].assign((by_group * stays[:, None]).ravel())
        losses = [tf.nn.softmax_cross_entropy_with_logits(targets, forward(pixels)) for pixels, targets in batches]
        return float(np.mean(np.concatenate(losses)))

    return loss


# How many


def evenly(bit: Bit, scores: dict[str, np.ndarray], share: float) -> Kept:
    """The most important groups, of every norm the same share. Raises InputError if that leaves a norm none."""
    for norm, score in scores.items():
        if round(len(score) * share) < 1:
            raise InputError(
                f"keep is {share:g}, which leaves none of the {len(score)} groups of {norm}: more than "
                f"{0.5 / len(score):g} does"
            )
    return {norm: best(score, round(len(score) * share)) for norm, score in scores.items()}


def within(
    bit: Bit, scores: dict[str, np.ndarray], target: float, in_macs: bool, loss: Callable[[Kept], float]
) -> Kept:
    """Groups that stay so that the `target`, a share of multiply-adds or else of weights, is met, none too many.

    Groups go in the order of the importance that is lost for each multiply-add or weight saved. By that alone some
    norms would be left with next to nothing, since importance holds for one group at a time: so no norm keeps less
    than one of FLOORS of what one share for all would leave it, and of these floors the one counts with which the
    `loss` is least. The floor 1 is one share for all. Raises InputError if the target is out of reach.
    """
    counts = {norm: len(score) for norm, score in scores.items()}
    size = partial(cost, bit, of=counts, in_macs=in_macs)
    whole = size(counts)
    most = max(counts.values())
    alike = [{norm: max(1, round(count * n / most)) for norm, count in counts.items()} for n in range(1, most + 1)]
    fitting = [even for even in alike if size(even) <= target * whole]
    if not fitting:
        key = "target_macs" if in_macs else "target_parameters"
        raise InputError(f"{key} is {target:g}, but channels can't bring it below {size(alike[0]) / whole:.3f}")

    saved = {norm: whole - size(counts | {norm: count - 1}) for norm, count in counts.items()}
    order = sorted((value / saved[norm], norm, group) for norm in scores for group, value in enumerate(scores[norm]))

    def with_floor(floor: float) -> Kept:
        kept = {norm: set(range(count)) for norm, count in counts.items()}
        for _, norm, group in order:
            if len(kept[norm]) > max(1, round(floor * fitting[-1][norm])):
                kept[norm].remove(group)
                if size({name: len(groups) for name, groups in kept.items()}) <= target * whole:
                    break
        return {norm: np.array(sorted(groups)) for norm, groups in kept.items()}

    return min((with_floor(floor) for floor in FLOORS), key=loss)


def fast_enough(
    candidate: Callable[[float], Bit], shares: list[float], target: float, latency_of: Callable[[Bit], float]
) -> Bit:
    """The `candidate` of the largest of the rising `shares` whose latency is within `target`, found by bisection.

    Raises InputError with the latency of the smallest if that is above `target`.
    """
    found = candidate(shares[0])
    if (least := latency_of(found)) > target:
        raise InputError(f"target_latency is {target:g}, but channels can't bring it below {least:.2f} on this machine")
    low, high = 0, len(shares)
    while high - low > 1:
        middle = (low + high) // 2
        tried = candidate(shares[middle])
        if latency_of(tried) <= target:
            low, found = middle, tried
        else:
            high = middle
    return found


def latency_share(bit: Bit, other: Bit, scratch: Path) -> float:
    """Latency of `bit` as a share of that of `other`, both as files with scheme dynamic, measured in turns."""
    paths = scratch / "bit.tflite", scratch / "other.tflite"
    for path, each in zip(paths, (bit, other), strict=True):
        path.write_bytes(conversion.convert(each, Scheme(scheme="dynamic")))
    return latency.ratio(*paths)


def least_share(bit: Bit, in_macs: bool) -> float:
    """What is left with one group in every inner norm, of the multiply-adds or else of the weights."""
    counts = {norm: bit.groups(norm) for norm in bit.inner_norms}
    return cost(bit, dict.fromkeys(counts, 1), counts, in_macs) / cost(bit, counts, counts, in_macs)


def cost(bit: Bit, kept: dict[str, int], of: dict[str, int], in_macs: bool) -> float:
    """Multiply-adds of an image, or weights, of the convolutions with `kept` groups `of` those in each inner norm."""
    share = {norm: kept[norm] / of[norm] for norm in kept}
    # A convolution reads the channels of the norm before it, and gives those of the norm behind it.
    before, behind = {}, {}
    for unit in bit.units:
        before |= {unit.conv("b"): unit.norm("b"), unit.conv("c"): unit.norm("c")}
        behind |= {unit.conv("a"): unit.norm("b"), unit.conv("b"): unit.norm("c")}
    return sum(
        (convolution.macs if in_macs else convolution.kernel.size)
        * share.get(before.get(convolution.path), 1)
        * share.get(behind.get(convolution.path), 1)
        for convolution in bit.convolutions
    )


def best(score: np.ndarray, count: int) -> np.ndarray:
    """Sorted indices of the `count` highest scores."""
    return np.sort(np.argsort(-score, kind="stable")[:count])


# The smaller BiT


def with_groups(bit: Bit, kept: dict[str, np.ndarray]) -> Bit:
    """`bit` with only the groups `kept` of its inner norms: cut out of all weights that they reach."""
    weights = dict(bit.weights)
    for unit in bit.units:
        for before, after in (("a", "b"), ("b", "c")):
            norm = unit.norm(after)
            size = bit.weights[f"{norm}/gamma"].size // bit.groups(norm)
            stay = (kept[norm][:, None] * size + np.arange(size)).ravel()
            for name, axis in {
                f"{unit.conv(before)}/kernel": 3,
                f"{norm}/gamma": 0,
                f"{norm}/beta": 0,
                f"{unit.conv(after)}/kernel": 2,
            }.items():
                weights[name] = np.take(weights[name], stay, axis)
    return bit.with_weights(weights)
