"""The TFRecord files in which TFDS keeps a data set, read without TensorFlow, each record where it lies."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from bitlite.workflow.errors import InputError

# An encoded image (JPEG in any mode, to be turned by its EXIF; or PNG, upright, grey or RGB) and its class's number.
Example = tuple[bytes, int]
# Names of the features that hold the image and its class, in a data set that this project prepared.
KEYS = ("image", "label")


class Record(NamedTuple):
    """One record of a file: `length` bytes from `offset` on."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Its content. Raises InputError naming the file if that is gone or too short."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.length + 4)
        except OSError as error:
            raise damaged(self.path) from error
        if len(content) < self.length + 4:
            raise damaged(self.path)
        return content[:-4]


def records(info: tfds.core.DatasetInfo, split: str) -> Iterator[Record]:
    """Every record of a split, in order. Raises InputError naming a file that does not hold all of its records."""
    for name, count in zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True):
        path = Path(name)
        try:
            # TFRecord: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes).
            with path.open("rb") as file:
                for _ in range(count):
                    (length,) = struct.unpack("<Q4x", file.read(12))
                    yield Record(path, file.tell(), length)
                    file.seek(length + 4, os.SEEK_CUR)
        except (OSError, struct.error) as error:
            raise damaged(path) from error


def example(info: tfds.core.DatasetInfo, record: Record, keys: tuple[str, str] = KEYS) -> Example:
    """The image, still encoded, and the class that a record holds; `keys` are the names of these features."""
    return parsed(info, record.read(), keys)


def parsed(info: tfds.core.DatasetInfo, content: bytes, keys: tuple[str, str]) -> Example:
    """`example` from a record's content."""
    image, label = keys
    found = info.features.deserialize_example_np(content, decoders={image: tfds.decode.SkipDecoding()})
    return found[image], int(found[label])


def examples(info: tfds.core.DatasetInfo, split: str, keys: tuple[str, str] = KEYS) -> Iterator[Example]:
    """The examples of a split, in order."""
    return (example(info, record, keys) for record in records(info, split))


def damaged(path: Path) -> InputError:
    """The error that a file of a data set can't be read."""
    return InputError(f"{path} does not hold all of its images; remove its directory and prepare it again")
