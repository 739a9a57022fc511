"""Whether a BiT has the shape that an entry of `pruning` asks for, told before it is trained. NumPy only."""

from itertools import accumulate, pairwise

import numpy as np

from bitlite.bit.names import HEAD, ROOT
from bitlite.bit.weights import Bit
from bitlite.pruning import cutting
from bitlite.pruning.norms import to_freeze
from bitlite.workflow.errors import WrongValue, under
from bitlite.workflow.params import NM, Channels, Magnitude, NormFree, Pruning, Units, keyed


def rehearsed(bit: Bit, entry: Pruning) -> Bit:
    """What surely stays of `bit` when it is pruned as `entry` says: any unit that may go is gone.

    Nothing is known of importance before training, so all groups count as equally important. Raises WrongValue if it
    can't be done, or if that is a matter of luck.
    """
    lasting = bit
    for key, part in keyed(entry):
        with under(key):
            match part:
                case Magnitude() | NM():
                    pruned_kernels(lasting, part)
                case Channels():
                    bit, lasting = _narrower(bit, part), _narrower(lasting, part)
                case Units():
                    units = cutting.removable(bit)
                    bit, lasting = cutting.without_units(bit, part, units), cutting.without(lasting, units)
                case NormFree():
                    bit, lasting = _norm_free(bit, part), _norm_free(lasting, part)
    return lasting


def _narrower(bit: Bit, entry: Channels) -> Bit:
    lasting = _cut(bit, entry, bit)
    if entry.rounds > 1 and entry.target_latency is None:  # what a latency leaves to each round only measuring tells
        left = accumulate(entry.cuts, lambda before, cut: _cut(before, cut, bit), initial=bit)
        for number, (before, after) in enumerate(pairwise(left), 1):
            if after.macs == before.macs:
                raise WrongValue(f"rounds is {entry.rounds}: so few channels go that round {number} would take none")
    return lasting


def _cut(bit: Bit, cut: Channels, whole: Bit) -> Bit:
    alike = {site.norm: np.ones(bit.groups(site.norm)) for site in bit.sites(cut.scope)}
    return cutting.without_channels(bit, cut, alike, lambda kept: 0.0, whole=whole, quick=True)


def _norm_free(bit: Bit, entry: NormFree) -> Bit:
    norms = to_freeze(bit, entry, lambda norms: dict.fromkeys(norms, 0.0))
    if not norms:
        raise WrongValue(f"norms is {entry.norms}, but the parts before leave nothing to freeze")
    return bit.with_weights(bit.weights, frozen_norms=bit.architecture.frozen_norms | dict.fromkeys(norms, 1.0))


def pruned_kernels(bit: Bit, entry: Magnitude | NM) -> set[str]:
    """Paths of the convolutions in whose kernels `entry` puts zeros: all but root and head, or those of its `layers`.

    Raises WrongValue if a pattern matches nothing, or if `entry.of` does not divide the inputs of a kernel.
    """
    if entry.layers is None:
        chosen = [path for path in bit.paths if path not in (ROOT, HEAD)]
    else:
        chosen = bit.matching(entry.layers, "layers")
    for path in chosen:
        inputs = bit.weights[f"{path}/kernel"].shape[2]
        if isinstance(entry, NM) and inputs % entry.of:
            raise WrongValue(
                f"of is {entry.of}: {entry.zeros} of {entry.of} weights can't be zero in {path}, which has {inputs} "
                "inputs"
            )
    return set(chosen)
