"""The prepared data set: a TFDS directory with the splits train, validation and test. Nothing here needs TensorFlow."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import dataset_info, naming
from tqdm import tqdm

from bitlite.images import decoding, records
from bitlite.images.pixels import Pixels
from bitlite.images.records import TABLE, UNKNOWN, Example, Records
from bitlite.workflow.errors import InputError, one_line
from bitlite.workflow.files import FULL, read_npz, whole
from bitlite.workflow.paths import DATASET

SPLITS = ("train", "validation", "test")
# Bytes at which a file of records is full. TFDS makes them of 2**26 to 2**30.
SHARD = 2**27
# The TABLE of each split. A set that TFDS itself prepared has none, and is gone through instead.
INDEX = "index.npz"
# The median of so many images drawn at random is, of all of them, within half a per cent of the middle one.
SAMPLE = 10_000

Item = TypeVar("Item")


def write(
    directory: Path,
    labels: Iterable[str],
    splits: Mapping[str, Sequence[Item]],
    fetch: Callable[[str, list[Item]], Iterator[Example]] = lambda split, items: iter(cast(list[Example], items)),
    *,
    unfinished: Path | None = None,
) -> None:
    """Prepare `directory` from what `fetch` brings for the items of each split; without it they are examples.

    Equal input, equal bytes: those that TFDS would write, but for where a file of records ends, and for the index.

    unfinished: a folder for files of records until all are written. Those that a killed process, which had the same
    input, left there are taken.

    Raises OSError if there is no room.
    """
    with whole(directory) as temporary:
        parts, tables = unfinished or temporary.with_name("parts"), {}
        for split, items in splits.items():
            try:
                tables[split] = _write_parts(parts, split, items, fetch)
            except OSError as error:
                if error.errno in FULL:  # whatever file it was that found no room
                    error.filename = str(directory)
                raise
        temporary.mkdir()
        files = naming.ShardedFileTemplate(temporary, dataset_name="dataset", filetype_suffix="tfrecord")
        infos = []
        for split, found in tables.items():
            size = sum(int(table["length"].sum(dtype=np.int64)) for table in found)
            infos.append(tfds.core.SplitInfo(split, [len(table) for table in found], size, files.replace(split=split)))
            for number, path in enumerate(infos[-1].filepaths):
                shutil.move(_part(parts, split, number), path)
        _describe(temporary, labels, infos)
        index: dict[str, Any] = {split: np.concatenate(found) for split, found in tables.items()}
        with (temporary / INDEX).open("wb") as file:
            np.savez(file, **index)


def _write_parts(
    parts: Path, split: str, items: Sequence[Item], fetch: Callable[[str, list[Item]], Iterator[Example]]
) -> list[np.ndarray]:
    """The tables of a split's files of records, which lie among `parts` now, those that do already as they are."""
    tables = list[np.ndarray]()
    while (table := _finished(_part(parts, split, len(tables)))) is not None:
        tables.append(table)
    done = sum(map(len, tables))
    left = fetch(split, [items[number] for number in _order(split, len(items))[done:]])
    examples = iter(tqdm(left, f"write {split}", initial=done, total=len(items), disable=None))
    for first in examples:
        part, rows, size = _part(parts, split, len(tables)), list[bytes](), 0
        with whole(part) as temporary, temporary.open("wb") as file:
            for example in chain([first], examples):
                record, row = records.framed(example, size)
                rows.append(row)
                size += file.write(record)
                if size >= SHARD:
                    break
            # What the table says must be on the disk before the table is: machines lose power too.
            file.flush()
            os.fsync(file.fileno())
        tables.append(np.frombuffer(b"".join(rows), TABLE))
        with whole(part.with_suffix(".npy")) as temporary:
            np.save(temporary, tables[-1])
    return tables


def _part(parts: Path, split: str, number: int) -> Path:
    return parts / f"{split}-{number}"


def _finished(part: Path) -> np.ndarray | None:
    """The table of a file of records, if that is there and whole."""
    try:
        table, size = np.load(part.with_suffix(".npy")), part.stat().st_size
    except (OSError, ValueError, EOFError):
        return None
    fits = table.dtype == TABLE and len(table) and records.end(table[-1]) == size
    return table if fits else None


def _order(split: str, count: int) -> np.ndarray:
    """The order in which TFDS writes the examples of a split whose keys are their numbers: by hash."""
    salted = hashlib.md5(split.encode())

    def hashed(number: int) -> bytes:
        key = salted.copy()
        key.update(b"%d" % number)
        return key.digest()

    high, low = np.frombuffer(b"".join(map(hashed, range(count))), ">u8").reshape(-1, 2).T
    return np.lexsort((low, high))


def _describe(directory: Path, labels: Iterable[str], splits: list[tfds.core.SplitInfo]) -> None:
    """Write what TFDS wants to know of a set, as it does for one that is made without a class of its own."""
    made = dataset_info.DatasetIdentity(
        name="dataset",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(directory),
        module_name="tensorflow_datasets.core.dataset_builders.adhoc_builder",
    )
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=list(labels))}
    )
    info = tfds.core.DatasetInfo(
        builder=made, features=features, description="Dataset built without a DatasetBuilder class."
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(directory)


def labels(directory: Path = DATASET) -> tuple[str, ...]:
    """Class names in the order of the labels' numbers."""
    return tuple(_builder(directory).info.features["label"].names)


def count(split: str, directory: Path = DATASET) -> int:
    """Number of images in a split."""
    return _builder(directory).info.splits[split].num_examples


def digest(directory: Path = DATASET) -> str:
    """SHA-256 of the data set's files, of records by the checksums that its index has of them, if it has one."""
    files = sorted(_builder(directory).data_path.iterdir())
    if (directory / INDEX).exists():
        files = [path for path in files if ".tfrecord" not in path.name]
    whole_set = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole_set.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole_set.hexdigest()


def median_area(directory: Path = DATASET) -> int:
    """Median number of pixels of the training images, read from their headers alone.

    Of more than SAMPLE it is that of the first SAMPLE, which are any: records lie in an order of hashes.
    """
    images = (Image.open(io.BytesIO(encoded)) for encoded, _ in islice(examples("train", directory), SAMPLE))
    return int(np.median([image.width * image.height for image in images]))


def examples(split: str, directory: Path = DATASET) -> Iterator[Example]:
    """The images of a split as they are stored, with their labels; `decoding.upright_rgb` shows them.

    TFDS decodes them as well, but does not follow the EXIF orientation of a JPEG, as no decoder of TensorFlow's does.
    """
    return (records.example(record) for record in _records(split, directory))


def read(
    split: str, size: tuple[int, int], directory: Path = DATASET, *, cache_mb: int = 0
) -> tuple[Pixels, np.ndarray]:
    """The images of a split, resized to `size` (height, width), and their labels int32 [images].

    They are those of `decoding.pixels`. `cache_mb`, in 10^6 bytes, bounds how many memory keeps.
    """
    found = _records(split, directory)
    labels = found.table["label"].astype(np.int32)
    if UNKNOWN in labels:
        labels[:] = [records.example(record)[1] for record in tqdm(found, f"read {split}", disable=None)]

    def decode(number: int) -> np.ndarray:
        encoded, _ = records.example(found[number])
        try:
            return decoding.pixels(encoded, size)
        except Exception as error:  # Pillow's decoders raise whatever a damaged image makes them stumble over
            raise found[number].unreadable(one_line(error)) from error

    return Pixels(len(found), size, decode, cache_mb=cache_mb), labels


def _records(split: str, directory: Path) -> Records:
    info = _builder(directory).info
    try:
        table = read_npz(directory / INDEX)[split]
    except FileNotFoundError:
        return Records(info, split)
    except (ValueError, KeyError) as error:
        raise records.damaged(directory / INDEX) from error
    if table.dtype != TABLE or len(table) != info.splits[split].num_examples:
        raise records.damaged(directory / INDEX)
    return Records(info, split, table)


def _builder(directory: Path) -> tfds.core.DatasetBuilder:
    if not (directory / "dataset_info.json").exists():
        raise InputError(f"{directory} is no prepared data set; run: dvc repro download")
    try:
        builder = tfds.builder_from_directory(directory)
        label = builder.info.features["label"]
        # TFDS calls classes by their numbers where it can't read their names.
        names = (directory / "label.labels.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except Exception as error:  # whatever damaged files make TFDS stumble over
        raise records.damaged(directory) from error
    if names != label.names or len(names) != label.num_classes or not builder.info.splits:
        raise records.damaged(directory)
    return builder
