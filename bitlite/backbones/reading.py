"""Weights under BiT's own names, read from where they lie: an .npz file or a SavedModel, here or at an address."""

import gzip
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bitlite.backbones.fetching import fetched, resolved
from bitlite.workflow.errors import InputError, one_line, tell
from bitlite.workflow.files import UNPACKED, read_npz
from bitlite.workflow.paths import found

# The sources that `read` takes, as errors describe them.
SOURCES = (
    "the address or path of an .npz, a SavedModel's directory or .tar.gz, or a TF Hub or Kaggle handle (https://...)"
)

# The tensor of a checkpoint that is its graph of objects.
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


def readable(source: str) -> bool:
    """Whether `source` is one of SOURCES, by its form: whether a file is there shows when it is read."""
    return _is_address(source) or _is_npz(source) or _is_archive(source) or os.path.isdir(found(source))


def read(source: str) -> dict[str, np.ndarray]:
    """The weights at `source` by name, whose copy is fetched anew if one that was kept turns out to be damaged.

    Raises InputError naming the source if it can't be fetched or read.
    """
    changed = began = time.time()
    try:
        with _place(source) as path:
            changed = path.stat().st_ctime if path.exists() else began
            return _reader(source)(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        # A copy that is damaged was removed; one that this machine can't read now is as good as before.
        if isinstance(error, ValueError) and _is_address(source) and changed < began:
            tell(f"the copy of {source} that was kept is damaged: it is fetched again")
            return read(source)
        raise InputError(f"backbone weights {source} can't be read: {one_line(error)}") from error


def _place(source: str) -> AbstractContextManager[Path]:
    """Where the weights at `source` lie on this machine, once they are fetched."""
    if not _is_address(source):
        return nullcontext(found(source))
    return resolved(source) if _reader(source) is _read_saved_model else fetched(source)


def _reader(source: str) -> Callable[[Path], dict[str, np.ndarray]]:
    return read_npz if _is_npz(source) else _read_archive if _is_archive(source) else _read_saved_model


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _file_name(source: str) -> str:
    return urlsplit(source).path if _is_address(source) else source


def _is_npz(source: str) -> bool:
    return _file_name(source).endswith(".npz")


def _is_archive(source: str) -> bool:
    return _file_name(source).endswith((".tar.gz", ".tgz"))


def discard(source: str) -> None:
    """Remove the copy of an address that was fetched, which turned out to be of no use: what lies there may change."""
    if _is_address(source):
        with suppress(ValueError), _place(source):
            raise ValueError


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """The variables of the SavedModel in a .tar.gz, wherever in it. Raises ValueError if there is not just one."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            _check_room(path)
            with tarfile.open(path, "r:gz") as archive:
                _unpack(archive, Path(directory))
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, KeyError) as error:
            raise ValueError(f"no .tar.gz file, or a damaged one: {error}") from error
        models = list(Path(directory).rglob("saved_model.pb"))
        if len(models) != 1:
            raise ValueError(f"it holds {len(models)} SavedModels")
        return _read_saved_model(models[0].parent)


def _check_room(path: Path) -> None:
    """Raise ValueError if a .gz file unpacks to more than UNPACKED times its size, whatever it holds."""
    room = UNPACKED * path.stat().st_size
    with gzip.open(path) as content:
        while chunk := content.read(2**20):
            room -= len(chunk)
            if room < 0:
                raise ValueError(f"it unpacks to more than {UNPACKED} times its own size")


def _unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Write the archive's files, and nothing but files. Raises ValueError if one lies outside of `directory`.

    The standard library's way, extractall(filter="data"), came with Python 3.11.4; Debian has 3.11.2.
    """
    for member in archive:
        place = Path(os.path.abspath(directory / member.name))
        if not place.is_relative_to(directory):
            raise ValueError(f"its file {member.name} lies outside of it")
        if content := archive.extractfile(member):  # a link is what it leads to, in the archive
            place.parent.mkdir(parents=True, exist_ok=True)
            with content, place.open("wb") as file:
                shutil.copyfileobj(content, file)


def _read_saved_model(directory: Path) -> dict[str, np.ndarray]:
    """The variables of a SavedModel that are of a floating type, as weights are, and counters of steps are not.

    A SavedModel is a program, parts of which run when TensorFlow loads it: here nothing but the names of its variables
    and their values is read. They are children of its `variables` in two graphs of objects, of which saved_model.pb
    has the names and the checkpoint the keys of the values.

    Raises ValueError if it is none, has no list `variables` as TF Hub's modules have, or two variables of one name.
    """
    import tensorflow as tf  # which the other sources do not need
    from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        variables = _children(model.meta_graphs[0].object_graph_def.nodes, "variables")
        values = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
        objects = trackable_object_graph_pb2.TrackableObjectGraph.FromString(values.get_tensor(OBJECTS))
        saved = _children(objects.nodes, "variables")
        weights = [key for key, node in variables.items() if tf.as_dtype(node.variable.dtype).is_floating]
        names = [variables[key].variable.name for key in weights]
        found = [values.get_tensor(saved[key].attributes[0].checkpoint_key) for key in weights]
    except Exception as error:  # protobuf and TensorFlow stumble over damage in many ways
        raise ValueError(f"no SavedModel, or a damaged one: {one_line(error)}") from error
    if not variables:
        raise ValueError("it has no list `variables`, which TF Hub's modules have")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"{len(repeated)} names are borne by two variables: {repeated[0]}")
    return dict(zip(names, found, strict=True))


def _children(nodes: Sequence, name: str) -> dict[str, Any]:
    """By their own names, the children of the child of this name that the first of `nodes` has."""
    below = {child.local_name: nodes[child.node_id] for child in nodes[0].children}
    return {child.local_name: nodes[child.node_id] for child in below[name].children} if name in below else {}
