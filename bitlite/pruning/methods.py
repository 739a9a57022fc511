"""The methods of pruning, by the entry of params.yaml that asks for them."""

from bitlite.bit.weights import Bit
from bitlite.pruning.channels import without_channels
from bitlite.pruning.importance import Sample
from bitlite.pruning.units import without_units
from bitlite.pruning.zeros import zeroed
from bitlite.workflow.params import NM, Channels, Magnitude, Pruning, Units


def prune(bit: Bit, entry: Pruning, sample: Sample) -> Bit:
    """The folded `bit` pruned at once as `entry` says, part after part, and not recovered.

    Raises InputError if that can't be done.
    """
    for part in entry.parts:
        match part:
            case Magnitude() | NM():
                bit = zeroed(bit, part)
            case Channels():
                bit = without_channels(bit, part, sample)
            case Units():
                bit = without_units(bit, part, sample)
    return bit
