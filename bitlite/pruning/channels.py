"""Channels away for real: a BiT with narrower bottlenecks."""

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.pruning.budget import Kept, evenly, least_share, within
from bitlite.pruning.importance import Sample, by_norm, by_taylor, loss_with
from bitlite.pruning.speed import fast_enough
from bitlite.workflow.params import Channels


def without_channels(bit: Bit, entry: Channels, sample: Sample) -> Bit:
    """The folded `bit` with only the most important of the channels inside its bottlenecks.

    Only whole GroupNorm groups go, so that the groups that stay are normalised exactly as before; at least one group
    of every norm stays. `entry.keep` is the share of every norm that stays. With a target each norm's share follows
    from importance, and the largest BiT that meets the target is taken: a share of the multiply-adds or weights of the
    convolutions of `bit` (`target_macs`, `target_parameters`), or of the time that its file takes on this very machine
    (`target_latency`), which makes the outcome depend on the machine.

    Raises InputError if `keep` leaves a norm nothing, or if a target is out of reach, with the least that is in reach.
    """
    importance = by_taylor(bit, sample()) if entry.importance == "taylor" else by_norm(bit)
    key, share = entry.size
    if key == "keep":
        return with_groups(bit, evenly(importance, share))
    loss = loss_with(bit, list(sample()))
    if key == "target_latency":
        least = least_share(bit, "target_macs")
        return fast_enough(
            bit, lambda macs: with_groups(bit, within(bit, importance, "target_macs", macs, loss)), least, share
        )
    return with_groups(bit, within(bit, importance, key, share, loss))


def with_groups(bit: Bit, kept: Kept) -> Bit:
    """`bit` with only the groups `kept` of its inner norms: cut out of all weights that they reach."""
    weights = dict(bit.weights)
    for unit in bit.units:
        for before, after in (("a", "b"), ("b", "c")):
            norm = unit.norm(after)
            size = bit.weights[f"{norm}/gamma"].size // bit.groups(norm)  # channels of a group
            stay = (kept[norm][:, None] * size + np.arange(size)).ravel()  # [groups that stay * size]
            for name, axis in {
                f"{unit.conv(before)}/kernel": 3,  # [height, width, inputs, channels]
                f"{norm}/gamma": 0,  # [channels]
                f"{norm}/beta": 0,  # [channels]
                f"{unit.conv(after)}/kernel": 2,  # [height, width, channels, outputs]
            }.items():
                weights[name] = np.take(weights[name], stay, axis)
    return bit.with_weights(weights)
