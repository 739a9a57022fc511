"""Which norms are to be frozen. NumPy only."""

import math
from collections.abc import Callable

from bitlite.bit.names import FINAL_NORM
from bitlite.bit.weights import Bit
from bitlite.workflow.errors import WrongValue
from bitlite.workflow.params import NormFree


def to_freeze(bit: Bit, entry: NormFree, losses: Callable[[list[str]], dict[str, float]]) -> list[str]:
    """Paths of the norms of `bit`, in running order, that `entry` freezes.

    `auto` freezes until at most the share `target_norms` of the multiplications of all norms is left, those norms first
    whose freezing costs least for each multiplication saved. `losses` gives the loss on training images with each norm
    of a list frozen by itself. Raises WrongValue if no norm is left to freeze, or if the target is out of reach.
    """
    exact = [path for path in bit.norms if path not in bit.architecture.frozen_norms]
    chosen = [path for path in exact if path in bit.inner_norms] if entry.norms == "inner" else exact
    if not chosen:
        raise WrongValue(f"norms is {entry.norms}: these are frozen already")
    if entry.norms != "auto":
        return chosen
    saved = {path: of_exact - of_frozen for path, (of_exact, of_frozen) in multiplications(bit).items()}
    whole = sum(of_exact for of_exact, _ in multiplications(bit).values())
    left = whole - sum(saved[path] for path in bit.architecture.frozen_norms)
    if (least := (left - sum(saved[path] for path in exact)) / whole) > entry.target_norms:
        raise WrongValue(f"target_norms is {entry.target_norms:g}, but without any norm {least:.3f} are left")
    found, losses_alone = set(), losses(exact)
    for path in sorted(exact, key=lambda path: losses_alone[path] / saved[path]):
        if left <= entry.target_norms * whole:
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
    read = {}
    for unit in bit.units:
        # Only b has a stride, so a gives as many pixels as it reads.
        read |= {unit.norm("a"): pixels[unit.conv("a")], unit.norm("b"): pixels[unit.conv("a")]}
        read |= {unit.norm("c"): pixels[unit.conv("b")], FINAL_NORM: pixels[unit.conv("c")]}
    values = {path: count * bit.weights[f"{path}/gamma"].size for path, count in read.items()}
    return {path: (2 * count, 0 if path in bit.inner_norms else count) for path, count in values.items()}
