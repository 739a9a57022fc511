"""The methods of pruning, by the entry of params.yaml that asks for them."""

from functools import partial

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.pruning import cutting
from bitlite.pruning.freezing import frozen, rises_frozen
from bitlite.pruning.importance import Sample, by_norm, by_taylor, loss_with
from bitlite.pruning.norms import to_freeze
from bitlite.pruning.quantizing import quantized
from bitlite.pruning.zeros import zeroed
from bitlite.training.inference import inference, mean_loss
from bitlite.workflow.params import NM, Channels, Magnitude, NormFree, Part, Pruning, Quantize, Units


def prune(bit: Bit, entry: Pruning, sample: Sample) -> Bit:
    """The folded `bit` pruned at once as `entry` says, part after part and cut after cut, and not recovered.

    Raises WrongValue if that can't be done.
    """
    for part in entry.parts:
        whole = bit
        for cut in part.cuts:
            bit = once(bit, cut, sample, whole)
    return bit


def once(bit: Bit, cut: Part, sample: Sample, whole: Bit) -> Bit:
    """The folded `bit` pruned as `cut` says, one of an entry's cuts; those before it have left `bit` of `whole`."""
    match cut:
        case Magnitude() | NM():
            return zeroed(bit, cut)
        case Channels():
            importance = by_taylor(bit, sample(), cut.scope) if cut.importance == "taylor" else by_norm(bit, cut.scope)
            loss = loss_with(bit, list(sample())) if cut.keep is None else None
            return cutting.without_channels(bit, cut, importance, loss, whole=whole)
        case Units():
            return cutting.without_units(bit, cut, by_absence(bit, sample))
        case NormFree():
            return frozen(bit, to_freeze(bit, cut, partial(rises_frozen, bit, sample())), sample())
        case Quantize():
            return quantized(bit, cut, sample())


def by_absence(bit: Bit, sample: Sample) -> list[str]:
    """The removable units, those first whose absence, each by itself, raises the loss on the sample least."""
    units = cutting.removable(bit)
    losses = {unit: loss(cutting.without(bit, [unit]), sample) for unit in units}
    return sorted(units, key=lambda unit: losses[unit])


def loss(bit: Bit, sample: Sample) -> float:
    """Mean cross-entropy of `bit` on the sample."""
    return mean_loss(inference(network.build(bit)), sample())
