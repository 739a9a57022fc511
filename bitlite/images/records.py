"""The TFRecord files in which TFDS keeps a data set, read without TensorFlow, each record where it lies."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import tensorflow_datasets as tfds

from bitlite.workflow.errors import InputError, one_line
from bitlite.workflow.paths import DATASET

# An encoded image (JPEG in any mode, to be turned by its EXIF; or PNG, upright, grey or RGB) and its class's number.
Example = tuple[bytes, int]
# Names of the features that hold the image and its class, in a data set that this project prepared.
KEYS = ("image", "label")


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
                file.seek(self.offset)
                content = file.read(self.length + 4)
        except OSError as error:
            raise damaged(self.path) from error
        if len(content) < self.length + 4:
            raise damaged(self.path)
        data = content[:-4]
        if content[-4:] != checksum(data):
            raise self.unreadable("it is damaged")
        return data

    def unreadable(self, why: str) -> InputError:
        """The error that this record is of no use."""
        return InputError(f"{self.path}, record {self.number} can't be read: {why}; {_remedy(self.path)}")


def checksum(data: bytes) -> bytes:
    """What follows `data` in a TFRecord: its CRC-32C, masked (tsl/lib/hash/crc32c.h in openxla/xla), 4 bytes."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def records(info: tfds.core.DatasetInfo, split: str) -> Iterator[Record]:
    """Every record of a split, in order. Raises InputError naming a file that does not hold all of its records."""
    for name, count in zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True):
        path = Path(name)
        try:
            # TFRecord: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes).
            with path.open("rb") as file:
                for number in range(count):
                    head = file.read(12)
                    (length,) = struct.unpack("<Q4x", head)
                    if head[8:] != checksum(head[:8]):
                        raise damaged(path)
                    yield Record(path, number, file.tell(), length)
                    file.seek(length + 4, os.SEEK_CUR)
        except (OSError, struct.error) as error:
            raise damaged(path) from error


def example(info: tfds.core.DatasetInfo, record: Record, keys: tuple[str, str] = KEYS) -> Example:
    """The image, still encoded, and the class that a record holds; `keys` are the names of these features.

    Raises InputError naming the file and the record if it holds something else.
    """
    content = record.read()
    try:
        return parsed(info, content, keys)
    except Exception as error:  # of other features, or none
        raise record.unreadable(one_line(error)) from error


def parsed(info: tfds.core.DatasetInfo, content: bytes, keys: tuple[str, str]) -> Example:
    """`example` from a record's content."""
    image, label = keys
    found = info.features.deserialize_example_np(content, decoders={image: tfds.decode.SkipDecoding()})
    return found[image], int(found[label])


def examples(info: tfds.core.DatasetInfo, split: str, keys: tuple[str, str] = KEYS) -> Iterator[Example]:
    """The examples of a split, in order."""
    return (example(info, record, keys) for record in records(info, split))


def damaged(path: Path) -> InputError:
    """The error that a file of a data set, or all of it, can't be read."""
    return InputError(f"{path} is damaged or does not hold all of its images; {_remedy(path)}")


def _remedy(path: Path) -> str:
    """What to do about a file of a data set: who wrote it writes it again."""
    if DATASET in (path, path.parent):
        return "make it anew: dvc repro --force download@dataset"
    return "remove its directory and prepare it again"
