"""How many groups of each site stay, so that a BiT becomes as small as asked for. NumPy only."""

from collections.abc import Callable, Mapping
from operator import attrgetter

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.workflow.errors import WrongValue

# Importance [groups] of each group of some sites, by the site's norm.
Importance = dict[str, np.ndarray]
# Sorted indices of the groups of some sites that stay, by the site's norm.
Kept = dict[str, np.ndarray]

# The size of a convolution that a target is about, by the target's key in params.yaml.
COUNTED = {"target_macs": attrgetter("macs"), "target_parameters": attrgetter("kernel.size")}
# Where shares follow from importance, a site keeps at least one of these shares of what one share for all leaves it.
FLOORS = (1.0, 0.9, 0.75, 0.5)


def evenly(importance: Importance, share: float, whole: Bit | None = None) -> Kept:
    """The most important groups, of every site the same share: of those that it has, or of those in `whole`.

    Raises WrongValue if that leaves a site none.
    """
    full = {norm: whole.groups(norm) if whole else len(values) for norm, values in importance.items()}
    counts = {norm: round(groups * share) for norm, groups in full.items()}
    for norm, count in counts.items():
        if count < 1:
            groups = full[norm]
            raise WrongValue(
                f"keep is {share:g}, which leaves none of the {groups} groups of {norm}: more than "
                f"{0.5 / groups:g} does"
            )
    return {norm: _best(importance[norm], count) for norm, count in counts.items()}


def within(
    bit: Bit,
    importance: Importance,
    key: str,
    target: float,
    loss: Callable[[Kept], float],
    whole: Bit | None = None,
) -> Kept:
    """The groups of `bit` that stay if the size `key`, one of COUNTED, may be at most the share `target` of `whole`'s.

    `whole` is by default `bit` itself.

    Groups go in the order of the importance that is lost for each multiply-add or weight saved. Importance holds for
    one group at a time, so by this order alone some sites would be left with next to nothing. Therefore a site keeps at
    least a share, the floor, of the groups that it would keep if all sites kept the same share. Of FLOORS the one with
    the least `loss` is taken; the floor 1 is the same share for all. Raises WrongValue if the target is out of reach.
    """
    counts = {norm: len(values) for norm, values in importance.items()}
    size = size_of(bit, key)
    full = whole_size(whole or bit, key)
    most = max(counts.values())
    alike = [{norm: max(1, round(count * n / most)) for norm, count in counts.items()} for n in range(1, most + 1)]
    fitting = [even for even in alike if size(even) <= target * full]
    if not fitting:
        raise WrongValue(f"{key} is {target:g}, but channels can't bring it below {size(alike[0]) / full:.3f}")

    saved = {norm: size(counts) - size(counts | {norm: count - 1}) for norm, count in counts.items()}
    order = sorted(
        (value / saved[norm], norm, group) for norm, values in importance.items() for group, value in enumerate(values)
    )

    def with_floor(floor: float) -> Kept:
        kept = {norm: set(range(count)) for norm, count in counts.items()}
        for _, norm, group in order:
            if len(kept[norm]) > max(1, round(floor * fitting[-1][norm])):
                kept[norm].remove(group)
                if size({name: len(groups) for name, groups in kept.items()}) <= target * full:
                    break
        return {norm: np.array(sorted(groups)) for norm, groups in kept.items()}

    return min((with_floor(floor) for floor in FLOORS), key=loss)


def least_share(bit: Bit, importance: Importance, key: str, whole: Bit) -> float:
    """The size `key`, one of COUNTED, of `bit` with one group at each of these sites, as a share of that of `whole`."""
    return size_of(bit, key)(dict.fromkeys(importance, 1)) / whole_size(whole, key)


def whole_size(bit: Bit, key: str) -> int:
    """The size `key`, one of COUNTED, of all convolutions of `bit`."""
    return sum(COUNTED[key](each) for each in bit.convolutions)


def size_of(bit: Bit, key: str) -> Callable[[Mapping[str, int]], float]:
    """A function that takes the number of groups that sites keep, and returns the size of all convolutions.

    `key`, one of COUNTED, says which size. Sites that it is not told of keep all.
    """
    sites = bit.sites("all")
    groups = {site.norm: bit.groups(site.norm) for site in sites}
    before = {path: site.norm for site in sites for path in site.reading}
    behind = {path: site.norm for site in sites for path in site.giving}
    convolutions = [(COUNTED[key](each), before.get(each.path), behind.get(each.path)) for each in bit.convolutions]

    def size(kept: Mapping[str, int]) -> float:
        share: dict[str | None, float] = {norm: count / groups[norm] for norm, count in kept.items()}
        return sum(full * share.get(read, 1) * share.get(given, 1) for full, read, given in convolutions)

    return size


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Sorted indices of the `count` highest values."""
    return np.sort(np.argsort(-values, kind="stable")[:count])
