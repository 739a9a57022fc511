"""Which norms are to be frozen. NumPy only."""

import math
from collections.abc import Callable

from bitlite.bit.names import FINAL_NORM
from bitlite.bit.weights import Bit
from bitlite.workflow.errors import WrongValue
from bitlite.workflow.params import NormFree


def to_freeze(bit: Bit, entry: NormFree, rises: Callable[[list[str]], dict[str, float]]) -> list[str]:
    """Paths of the norms of `bit`, in running order, that `entry` freezes of those that are exact.

    `auto` freezes until at most the share `target_norms` of the multiplications of all norms is left, those norms first
    that raise the loss least for each multiplication saved. `rises` gives by how much the loss on training images rises
    with each norm of a list frozen by itself. Raises WrongValue if the target is out of reach.
    """
    exact = [path for path in bit.norms if path not in bit.architecture.frozen_norms]
    if entry.target_norms is None:  # norms is not auto
        return [path for path in exact if entry.norms == "all" or path in bit.inner_norms]
    saved = {path: of_exact - of_frozen for path, (of_exact, of_frozen) in multiplications(bit).items()}
    whole = sum(of_exact for of_exact, _ in multiplications(bit).values())
    left, most = whole - sum(saved[path] for path in bit.architecture.frozen_norms), entry.target_norms * whole
    if (least := left - sum(saved[path] for path in exact)) > most:
        share = math.ceil(1000 * least / whole) / 1000
        raise WrongValue(f"target_norms is {entry.target_norms:g}, but with all norms frozen {share:.3f} are left")
    found, rise = set(), rises(exact)
    # What raises nothing is free, so of that the largest goes first.
    for path in sorted(exact, key=lambda path: (max(rise[path], 0) / saved[path], -saved[path])):
        if left <= most:
            break
        found.add(path)
        left -= saved[path]
    return [path for path in exact if path in found]


def multiplications(bit: Bit) -> dict[str, tuple[int, int]]:
    """How many each norm takes for an image, by its path: exact, and frozen.

    An exact norm squares every value and multiplies it, a frozen one multiplies it. Inside a bottleneck the convolution
    before it does that.
    """
    pixels = {each.path: math.prod(each.size) for each in bit.convolutions}
    read: dict[str, int] = {}
    for unit in bit.units:
        # Only b has a stride, so a gives as many pixels as it reads.
        read |= {unit.norm("a"): pixels[unit.conv("a")], unit.norm("b"): pixels[unit.conv("a")]}
        read |= {unit.norm("c"): pixels[unit.conv("b")], FINAL_NORM: pixels[unit.conv("c")]}
    values = {path: count * bit.weights[f"{path}/gamma"].size for path, count in read.items()}
    return {path: (2 * count, 0 if path in bit.inner_norms else count) for path, count in values.items()}
