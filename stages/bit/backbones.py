"""Backbones by name: the embedded bit-tiny, Google's published models, or weights from a file or an address."""

import re
import tempfile
from pathlib import Path

import numpy as np
import requests
from tqdm import tqdm

from stages import InputError
from stages.artifacts import read_npz
from stages.bit.model import HEAD, Bit, untrained
from stages.params import Backbone

BIT_TINY = Path(__file__).parents[2] / "pretrain" / "bit-tiny.npz"
BIT_TINY_SHAPE = {"filters": 32, "units": (1, 2, 4), "groups": 16, "root": 3, "pool": False, "image_size": (32, 32)}
# BiT-S learnt from ILSVRC-2012, BiT-M from ImageNet-21k.
PUBLISHED = {
    f"bit-{size}-{net}".lower(): f"https://storage.googleapis.com/bit_models/BiT-{size}-{net}.npz"
    for size in "SM"
    for net in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")
}


def fetch(params: Backbone, *, seed: int = 0) -> Bit:
    """The backbone that `params` names, without a head.

    Raises InputError naming what is wrong if the name is unknown, or if a weight is missing, left over or misshapen.
    """
    name = params.name
    if name == "bit-tiny":
        return _from_weights(name, _read_npz(BIT_TINY))
    if name == "bit-tiny-untrained":
        return untrained(name, seed=seed, **BIT_TINY_SHAPE)
    if name in PUBLISHED or re.match(r"https?://.*\.npz$", name):
        return _from_weights(name, _download_npz(PUBLISHED.get(name, name)))
    if name.endswith(".npz"):
        return _from_weights(name, _read_npz(Path(name)))
    if Path(name).is_dir() or re.match(r"https?://", name):
        return _from_weights(name, _read_saved_model(name))
    raise InputError(
        f"backbone.name is {name!r}: allowed are bit-tiny, {', '.join(PUBLISHED)}, the path or address of an .npz of "
        "BiT weights, a SavedModel directory or a TF Hub handle"
    )


def _from_weights(name: str, weights: dict[str, np.ndarray]) -> Bit:
    trunk = {key: value for key, value in weights.items() if not key.startswith(HEAD)}
    for key, value in trunk.items():
        if value.dtype.kind != "f":
            raise InputError(f"backbone.name is {name!r}, of whose weights {key} is of type {value.dtype}")
    root = trunk.get("resnet/root_block/standardized_conv2d/kernel")
    units = sorted({m.groups() for key in trunk if (m := re.match(r"resnet/block(\d+)/unit(\d+)/", key))})
    if root is None or root.ndim != 4 or not units:
        raise InputError(f"backbone.name is {name!r}, whose weights are not named as BiT's: {sorted(weights)[:3]} ...")
    small = root.shape[0] == BIT_TINY_SHAPE["root"]
    counts = tuple(sum(block == number for block, _ in units) for number in sorted({block for block, _ in units}))
    published = {"groups": 32, "root": 7, "pool": True, "image_size": (224, 224)}
    shape = BIT_TINY_SHAPE if small else published
    if root.shape[-1] % shape["groups"]:
        raise InputError(
            f"backbone.name is {name!r}, whose {root.shape[-1]} filters don't fill {shape['groups']} groups"
        )
    expected = untrained(name, seed=0, **{**shape, "filters": root.shape[-1], "units": counts})
    for problem, keys in {
        "missing": expected.weights.keys() - trunk.keys(),
        "not BiT's": trunk.keys() - expected.weights.keys(),
        "misshapen": {k for k in trunk.keys() & expected.weights.keys() if trunk[k].shape != expected.weights[k].shape},
    }.items():
        if keys:
            raise InputError(f"backbone.name is {name!r}, of whose weights {len(keys)} are {problem}: {min(keys)}")
    return Bit(expected.architecture, {key: value.astype(np.float32) for key, value in trunk.items()})


def _read_npz(path: Path, source: str = "") -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone weights {source or path} can't be read: {error}") from error


def _download_npz(address: str) -> dict[str, np.ndarray]:
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        try:
            with requests.get(address, stream=True, timeout=15) as response:
                response.raise_for_status()
                size = int(response.headers.get("content-length", 0))
                with tqdm(desc=address, total=size, unit="B", unit_scale=True, disable=None) as progress:
                    for chunk in response.iter_content(2**20):
                        progress.update(file.write(chunk))
        except requests.RequestException as error:
            raise InputError(
                f"{address} can't be fetched ({error}); download it elsewhere and give its path as backbone.name"
            ) from error
        file.flush()
        return _read_npz(Path(file.name), address)


def _read_saved_model(name: str) -> dict[str, np.ndarray]:
    import tensorflow as tf  # which the other sources do not need
    import tensorflow_hub as hub

    try:
        variables = tf.saved_model.load(hub.resolve(name)).variables
    except (OSError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"backbone.name is {name!r}, which can't be read as a SavedModel of BiT: {reason}") from error
    return {v.name.removesuffix(":0"): v.numpy() for v in variables}
