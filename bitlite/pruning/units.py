"""Residual units away for real: a shallower BiT."""

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.pruning.importance import Sample
from bitlite.training.inference import inference, mean_loss
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Units


def without_units(bit: Bit, entry: Units, sample: Sample) -> Bit:
    """`bit` without the `entry.remove` units whose absence, each by itself, raises the loss on the sample least.

    Only units whose shortcut is the identity can go. Raises InputError if there are too few.
    """
    removable = [unit.path for unit in bit.units if not bit.projects(unit)]
    if entry.remove > len(removable):
        raise InputError(f"remove is {entry.remove}, but only {len(removable)} units have an identity shortcut")
    images = list(sample())
    losses = {path: mean_loss(inference(network.build(without(bit, {path}))), images) for path in removable}
    return without(bit, set(sorted(removable, key=losses.get)[: entry.remove]))


def without(bit: Bit, units: set[str]) -> Bit:
    """`bit` without the units of these paths."""
    return bit.with_weights(
        {name: value for name, value in bit.weights.items() if not any(name.startswith(f"{unit}/") for unit in units)}
    )
