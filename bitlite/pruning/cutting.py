"""Channels and units cut out of a BiT's weights. NumPy only."""

from collections.abc import Callable

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.pruning.budget import Importance, Kept, evenly, least_share, within
from bitlite.pruning.speed import fast_enough
from bitlite.workflow.errors import WrongValue
from bitlite.workflow.params import Channels, Units


def without_channels(
    bit: Bit,
    entry: Channels,
    importance: Importance,
    loss: Callable[[Kept], float] | None,
    *,
    whole: Bit | None = None,
    quick: bool = False,
) -> Bit:
    """The folded `bit` with only the most important of its channels, in one cut: those of the sites in `importance`.

    Only whole GroupNorm groups go, so that the groups that stay are normalised exactly as before; at least one group
    of every site stays. All shares are of `whole`, of which earlier cuts left `bit`; by default it is `bit` itself.
    `entry.keep` is the share of every site that stays. With a target each site's share follows from importance and
    `loss`, and the largest BiT that meets the target is taken: a share of the multiply-adds or weights of the
    convolutions (`target_macs`, `target_parameters`), or of the time that the file takes on this very machine
    (`target_latency`), which makes the outcome depend on the machine.

    loss: of `bit` with these groups alone, which `keep` does without. quick: tries by a few runs whether
    target_latency is in reach at all.
    Raises WrongValue if `keep` leaves a site nothing, or if a target is out of reach, with the least that is in reach.
    """
    whole = whole or bit
    key, share = entry.size
    if key == "keep":
        return with_groups(bit, evenly(importance, share, whole))
    assert loss, "only keep does without a loss"
    if key != "target_latency":
        return with_groups(bit, within(bit, importance, key, share, loss, whole))
    return fast_enough(
        whole,
        lambda macs: with_groups(bit, within(bit, importance, "target_macs", macs, loss, whole)),
        least_share(bit, importance, "target_macs", whole),
        share,
        quick,
    )


def with_groups(bit: Bit, kept: Kept) -> Bit:
    """`bit` with only the groups `kept` of these sites: the others are cut out of all weights that they reach."""
    weights = dict(bit.weights)
    for site in (each for each in bit.sites("all") if each.norm in kept):
        size = bit.weights[f"{site.norm}/gamma"].size // bit.groups(site.norm)  # channels of a group
        stay = (kept[site.norm][:, None] * size + np.arange(size)).ravel()  # [groups that stay * size]
        reached = [(f"{path}/kernel", 3) for path in site.giving]  # [height, width, inputs, channels]
        reached += [(f"{norm}/{name}", 0) for norm in site.readers for name in ("gamma", "beta")]  # [channels]
        reached += [(f"{path}/kernel", 2) for path in site.reading]  # [height, width, channels, outputs]
        for name, axis in reached:
            weights[name] = np.take(weights[name], stay, axis)
    return bit.with_weights(weights)


def removable(bit: Bit) -> list[str]:
    """Paths of the units that can go: those whose shortcut is the identity."""
    return [unit.path for unit in bit.units if not bit.projects(unit)]


def without_units(bit: Bit, entry: Units, units: list[str]) -> Bit:
    """`bit` without the first `entry.remove` of its removable `units`. Raises WrongValue if there are too few."""
    if entry.remove > len(units):
        raise WrongValue(f"remove is {entry.remove}, but only {len(units)} units have an identity shortcut")
    return without(bit, units[: entry.remove])


def without(bit: Bit, units: list[str]) -> Bit:
    """`bit` without the units of these paths."""

    def rest(by_name: dict) -> dict:
        return {name: each for name, each in by_name.items() if not any(name.startswith(f"{unit}/") for unit in units)}

    return bit.with_weights(rest(bit.weights), frozen_norms=rest(bit.architecture.frozen_norms))
