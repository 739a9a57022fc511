"""The TFRecord files in which TFDS keeps a data set, read without TensorFlow, each record where it lies."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from bitlite.workflow.errors import InputError, one_line
from bitlite.workflow.paths import DATASET

# An encoded image (JPEG in any mode, to be turned by its EXIF; or PNG, upright, grey or RGB) and its class's number.
Example = tuple[bytes, int]
# Names of the features that hold the image and its class, in a data set that this project prepared.
KEYS = ("image", "label")
# Of each record where its content begins in its file and how many bytes it has, their checksum, and its label.
TABLE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("checksum", "<u4"), ("label", "<i4")])
ROW, UNKNOWN = struct.Struct("<QI4si"), -1


class Record(NamedTuple):
    """One record of a file: its number there, from 0, and its `length` bytes from `offset` on."""

    path: Path
    number: int
    offset: int
    length: int

    def read(self) -> bytes:
        """Its content. Raises InputError naming the file if that is gone, too short, or damaged here."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset - 12)
                head, data, check = file.read(12), file.read(self.length), file.read(4)
        except OSError as error:
            raise damaged(self.path) from error
        if len(check) < 4:
            raise damaged(self.path)
        if head != _head(self.length) or check != checksum(data):
            raise self.unreadable("it is damaged")
        return data

    def unreadable(self, why: str) -> InputError:
        """The error that this record is of no use."""
        return InputError(f"{self.path}, record {self.number} can't be read: {why}; {_remedy(self.path)}")


def checksum(data: bytes) -> bytes:
    """What follows `data` in a TFRecord: its CRC-32C, masked (tsl/lib/hash/crc32c.h in openxla/xla), 4 bytes."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class Records(Sequence[Record]):
    """The records of a split in order: where each lies, and its label, for 20 bytes of memory each."""

    def __init__(self, info: tfds.core.DatasetInfo, split: str, table: np.ndarray | None = None) -> None:
        """table: that which was made when the split was written; without it the files are gone through, and labels
        are UNKNOWN.

        Raises InputError naming a file that does not hold all of its records.
        """
        found = info.splits[split]
        self._paths, self._ends = [Path(name) for name in found.filepaths], np.cumsum(found.shard_lengths)
        if table is None:
            table = np.concatenate([_walked(*each) for each in zip(self._paths, found.shard_lengths, strict=True)])
        self.table = table
        for path, last in zip(self._paths, table[self._ends - 1], strict=True):
            try:
                cut = path.stat().st_size < end(last)
            except OSError as error:
                raise damaged(path) from error
            if cut:
                raise damaged(path)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = int(np.searchsorted(self._ends, number, "right"))
        first = int(self._ends[file - 1]) if file else 0
        row = self.table[number]
        return Record(self._paths[file], int(number) - first, int(row["offset"]), int(row["length"]))


def _walked(path: Path, count: int) -> np.ndarray:
    """The table of a file of `count` records, as far as their heads tell."""
    table = np.zeros(count, TABLE)
    try:
        with path.open("rb") as file:
            for number in range(count):
                head = file.read(12)
                (length,) = struct.unpack("<Q4x", head)
                if head != _head(length):
                    raise damaged(path)
                table[number] = file.tell(), length, 0, UNKNOWN
                file.seek(length + 4, os.SEEK_CUR)
    except (OSError, struct.error) as error:
        raise damaged(path) from error
    return table


def _head(length: int) -> bytes:
    """What stands before so many bytes of data in a TFRecord; behind them stands their checksum."""
    packed = struct.pack("<Q", length)
    return packed + checksum(packed)


def end(row: np.void) -> int:
    """Where the record of this row of a TABLE ends in its file."""
    return int(row["offset"]) + int(row["length"]) + 4


def framed(example: Example, offset: int) -> tuple[bytes, bytes]:
    """The TFRecord that holds the example at this offset of a file, and its row of the TABLE."""
    encoded, label = example
    message = tf_example_pb2.Example()
    features = message.features.feature
    features["image"].bytes_list.value.append(encoded)
    features["label"].int64_list.value.append(label)
    # Protobuf otherwise orders an example's features differently from process to process.
    data = message.SerializeToString(deterministic=True)
    head, check = _head(len(data)), checksum(data)
    return b"".join((head, data, check)), ROW.pack(offset + len(head), len(data), check, label)


def parsed(content: bytes, keys: tuple[str, str] = KEYS) -> Example:
    """The image, still encoded, and the class that a record's content holds; `keys` are the names of these features.

    Raises ValueError, or what protobuf has of its own, if it holds something else.
    """
    features = tf_example_pb2.Example.FromString(content).features.feature
    image, label = (features[key] for key in keys)
    (encoded,), (number,) = image.bytes_list.value, label.int64_list.value
    return encoded, number


def example(record: Record, keys: tuple[str, str] = KEYS) -> Example:
    """`parsed` of a record. Raises InputError naming the file and the record if it holds something else."""
    content = record.read()
    try:
        return parsed(content, keys)
    except Exception as error:  # of other features, or none
        raise record.unreadable(f"it holds no image with a label ({one_line(error)})") from error


def damaged(path: Path) -> InputError:
    """The error that a file of a data set, or all of it, can't be read."""
    return InputError(f"{path} is damaged or does not hold all of its images; {_remedy(path)}")


def _remedy(path: Path) -> str:
    """What to do about a file of a data set: who wrote it writes it again."""
    if DATASET in (path, path.parent):
        return "make it anew: dvc repro --force download@dataset"
    return "remove its directory and prepare it again"
