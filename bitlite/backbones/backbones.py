"""Backbones by name: the embedded bit-tiny, Google's published models, or weights from a file or an address."""

import gzip
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bitlite.backbones.fetching import fetched, resolved
from bitlite.bit.model import HEAD, Architecture, Bit, shapes, untrained
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_npz
from bitlite.workflow.params import Backbone

BIT_TINY = Path(__file__).parents[2] / "pretrain" / "bit-tiny.npz"
BIT_TINY_SHAPE = {"filters": 32, "units": (1, 2, 4), "groups": 16, "root": 3, "pool": False, "image_size": (32, 32)}
# Residual units in each block of the published networks. Their blocks begin with 64 filters times the width.
UNITS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3)}
FILTERS = 64
# BiT-S learnt from ILSVRC-2012, BiT-M from ImageNet-21k, and the last ones then from ILSVRC-2012.
PUBLISHED = {
    f"bit-{model}".lower(): f"https://storage.googleapis.com/bit_models/BiT-{model}.npz"
    for form in ("S-{}", "M-{}", "M-{}-ILSVRC2012")
    for model in map(form.format, ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"))
}
SOURCES = (
    "the address or path of an .npz, a SavedModel's directory or .tar.gz, or a TF Hub or Kaggle handle (https://...)"
)


def fetch(params: Backbone, *, seed: int = 0) -> Bit:
    """The backbone that `params` asks for, without a head, all its weights in float32.

    Raises InputError if its weights can't be had, if they are not those of the published model that it is named after,
    or if one of them is missing, left over or misshapen, naming the weight.
    """
    name = params.name
    if name == "bit-tiny-untrained" and not params.source:
        return untrained(name, seed=seed, **BIT_TINY_SHAPE)
    source = params.source or {"bit-tiny": str(BIT_TINY), **PUBLISHED}.get(name, name)
    if not (_is_address(source) or _is_npz(source) or _is_archive(source) or Path(source).is_dir()):
        if params.source:
            raise InputError(f"backbone.source is {source!r}: allowed are {SOURCES}")
        raise InputError(f"backbone.name is {name!r}: allowed are bit-tiny, {', '.join(PUBLISHED)}, or {SOURCES}")
    return _from_weights(name, source, _read(source))


def _from_weights(name: str, source: str, weights: dict[str, np.ndarray]) -> Bit:
    """The BiT that `weights` are, their head left out. Raises InputError as `fetch` does."""
    weights = {key: value for key, value in weights.items() if not key.startswith(f"{HEAD}/")}
    for key, value in weights.items():
        if value.dtype.kind != "f":
            raise InputError(f"backbone weights {source}: {key} is of type {value.dtype}")
    units, filters, root = _architecture(weights, source)
    if name in PUBLISHED:
        _check_name(name, source, units, filters)
    tiny = root == BIT_TINY_SHAPE["root"] and name not in PUBLISHED
    form = BIT_TINY_SHAPE if tiny else {"groups": 32, "root": 7, "pool": True, "image_size": (224, 224)}
    if filters % form["groups"]:
        raise InputError(f"backbone weights {source}: {filters} filters don't fill {form['groups']} groups")
    expected = shapes(filters=filters, units=units, root=form["root"])
    for problem, keys in {
        "missing": expected.keys() - weights.keys(),
        "not BiT's": weights.keys() - expected.keys(),
        "misshapen": {key for key in weights.keys() & expected.keys() if weights[key].shape != expected[key]},
    }.items():
        if keys:
            raise InputError(f"backbone weights {source}: {len(keys)} are {problem}: {min(keys)}")
    architecture = Architecture(name, form["groups"], form["pool"], standardized=True, image_size=form["image_size"])
    return Bit(architecture, {key: value.astype(np.float32, copy=False) for key, value in weights.items()})


def _architecture(weights: dict[str, np.ndarray], source: str) -> tuple[tuple[int, ...], int, int]:
    """Units in each block, filters and side of the root's kernel, as names and shapes tell them."""
    root = weights.get("resnet/root_block/standardized_conv2d/kernel")
    units = {match.groups() for key in weights if (match := re.match(r"resnet/block(\d+)/(unit\d+)/", key))}
    if root is None or root.ndim != 4 or not units:
        raise InputError(f"backbone weights {source}: they are not named as BiT's: {sorted(weights)[:3]} ...")
    counts = Counter(block for block, _ in units)
    return tuple(counts[block] for block in sorted(counts)), root.shape[-1], root.shape[0]


def _check_name(name: str, source: str, units: tuple[int, ...], filters: int) -> None:
    """Raises InputError if the published model of this name has other units or filters."""
    depth, width = re.match(r"bit-[sm]-(r\d+)x(\d+)", name).groups()
    meant = UNITS[depth], FILTERS * int(width)
    if (units, filters) != meant:
        raise InputError(
            f"backbone.name is {name!r}, which has {_described(*meant)}, but the weights {source} have "
            f"{_described(units, filters)}: correct one of them, or choose a name of your own"
        )


def _described(units: tuple[int, ...], filters: int) -> str:
    return f"{'-'.join(map(str, units))} units of width {filters / FILTERS:g}"


# Reading


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _file_name(source: str) -> str:
    return urlsplit(source).path if _is_address(source) else source


def _is_npz(source: str) -> bool:
    return _file_name(source).endswith(".npz")


def _is_archive(source: str) -> bool:
    return _file_name(source).endswith((".tar.gz", ".tgz"))


def _read(source: str) -> dict[str, np.ndarray]:
    """The weights at `source` under BiT's names. Raises InputError naming it if it can't be fetched or read."""
    read = read_npz if _is_npz(source) else _read_archive if _is_archive(source) else _read_saved_model
    if not _is_address(source):
        place = nullcontext(Path(source))
    elif read is _read_saved_model:
        place = nullcontext(resolved(source))
    else:
        place = fetched(source)
    try:
        with place as path:
            return read(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"backbone weights {source} can't be read: {' '.join(str(error).split())}") from error


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """The variables of the SavedModel in a .tar.gz, wherever in it. Raises ValueError if there is not just one."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(directory, filter="data")
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"no .tar.gz file, or a damaged one: {error}") from error
        models = list(Path(directory).rglob("saved_model.pb"))
        if len(models) != 1:
            raise ValueError(f"it holds {len(models)} SavedModels")
        return _read_saved_model(models[0].parent)


def _read_saved_model(directory: Path) -> dict[str, np.ndarray]:
    """The variables of a SavedModel but those that count, such as steps, since weights are of a floating type.

    Raises ValueError if it is none, has no list `variables` as TF Hub's modules have, or two variables of one name.
    """
    import tensorflow as tf  # which the other sources do not need

    try:
        with tf.device("CPU"):
            model = tf.saved_model.load(str(directory))
    except (OSError, LookupError, tf.errors.OpError) as error:
        raise ValueError(f"no SavedModel, or a damaged one: {error}") from error
    if not hasattr(model, "variables"):
        raise ValueError("it has no list `variables`, which TF Hub's modules have")
    weights = [variable for variable in model.variables if variable.dtype.is_floating]
    names = [variable.name.removesuffix(":0") for variable in weights]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"{len(repeated)} names are borne by two variables: {repeated[0]}")
    return {name: variable.numpy() for name, variable in zip(names, weights, strict=True)}
