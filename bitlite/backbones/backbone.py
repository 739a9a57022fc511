"""Backbones by name: the embedded bit-tiny, Google's published models, or weights from a file or an address."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bitlite.backbones.reading import SOURCES, discard, read, readable
from bitlite.bit.names import HEAD, ROOT, units
from bitlite.bit.shapes import BIT_TINY, FILTERS, Shape, misfit, published
from bitlite.bit.weights import Architecture, Bit, untrained
from bitlite.workflow.errors import InputError, WrongValue
from bitlite.workflow.params import Backbone
from bitlite.workflow.paths import last_name

EMBEDDED = Path(__file__).parents[2] / "pretrain" / "bit-tiny.npz"
# Hosts of handles that anyone can resolve.
PUBLIC_HOSTS = ("tfhub.dev", "www.kaggle.com", "kaggle.com")
# BiT-S learnt from ILSVRC-2012, BiT-M from ImageNet-21k, and the last ones then from ILSVRC-2012.
PUBLISHED = {
    f"bit-{model}".lower(): f"https://storage.googleapis.com/bit_models/BiT-{model}.npz"
    for form in ("S-{}", "M-{}", "M-{}-ILSVRC2012")
    for model in map(form.format, ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"))
}


def fetch(params: Backbone) -> Bit:
    """The backbone that `params` asks for, without a head, all its weights in float32.

    Raises InputError if its weights can't be had, if they are not those of the published model that it is named after,
    or if one of them is missing, left over or misshapen, naming the weight.
    """
    name = params.name
    if name == "bit-tiny-untrained" and not params.source:
        return untrained(name, BIT_TINY, seed=0)
    source = params.source or {"bit-tiny": str(EMBEDDED), **PUBLISHED}.get(name, name)
    if not readable(source):
        if params.source:
            raise InputError(f"backbone.source is {source!r}: allowed are {SOURCES}")
        raise InputError(f"backbone.name is {name!r}: allowed are bit-tiny, {', '.join(PUBLISHED)}, or {SOURCES}")
    weights = read(source)
    try:
        return _from_weights(name, source, weights)
    except WrongValue:  # the weights are sound
        raise
    except InputError:
        discard(source)
        raise


def _from_weights(name: str, source: str, weights: dict[str, np.ndarray]) -> Bit:
    """The BiT that `weights` are, their head left out. Raises InputError as `fetch` does."""
    weights = {key: value for key, value in weights.items() if not key.startswith(f"{HEAD}/")}
    for key, value in weights.items():
        if value.dtype.kind != "f":
            raise InputError(f"backbone weights {source}: {key} is of type {value.dtype}")
        with np.errstate(over="ignore"):
            weights[key] = value.astype(np.float32, copy=False)
        if not np.isfinite(weights[key]).all():
            raise InputError(f"backbone weights {source}: {key} has values that are not finite in float32")
    shape = _shape(name, weights, source)
    if name in PUBLISHED:
        _check_name(name, source, shape)
    if shape.filters % shape.groups:
        raise InputError(f"backbone weights {source}: {shape.filters} filters don't fill {shape.groups} groups")
    if fault := misfit({key: value.shape for key, value in weights.items()}, shape.weights):
        raise InputError(f"backbone weights {source}: {fault}")
    architecture = Architecture(_public(name), shape.groups, shape.pool, standardized=True, image_size=shape.image_size)
    return Bit(architecture, weights)


def _shape(name: str, weights: dict[str, np.ndarray], source: str) -> Shape:
    """Units and filters as in `weights`; the rest as in published networks, or in bit-tiny where the root is small."""
    root = weights.get(f"{ROOT}/kernel")
    found = units(weights)
    if root is None or root.ndim != 4 or not found:
        raise InputError(f"backbone weights {source}: they are not named as BiT's: {sorted(weights)[:3]} ...")
    counts = Counter(unit.block for unit in found)
    form = BIT_TINY if root.shape[0] == BIT_TINY.root and name not in PUBLISHED else published("r50x1")
    return replace(form, filters=root.shape[-1], units=tuple(counts[block] for block in sorted(counts)))


def _public(name: str) -> str:
    """What may go out with every file made of the backbone: where its weights lie, and how to get in, may not."""
    address = urlsplit(name)
    if address.hostname in PUBLIC_HOSTS:
        return f"{address.hostname}{address.path}"
    return last_name(name) if "/" in name or name.startswith("~") else name


def _check_name(name: str, source: str, shape: Shape) -> None:
    """Raises WrongValue if the published model of this name has other units or filters."""
    meant = published(name.split("-")[2])
    if (shape.units, shape.filters) != (meant.units, meant.filters):
        raise WrongValue(
            f"backbone.name is {name!r}, which has {_described(meant)}, but the weights {source} have "
            f"{_described(shape)}: correct one of them, or choose a name of your own"
        )


def _described(shape: Shape) -> str:
    return f"{'-'.join(map(str, shape.units))} units of width {shape.filters / FILTERS:g}"
