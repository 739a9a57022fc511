"""The prepared data set: a TFDS directory with the splits train, validation and test. Reading needs no TensorFlow."""

import hashlib
import io
import math
import os
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tqdm import tqdm

from bitlite.workflow.errors import InputError
from bitlite.workflow.files import whole
from bitlite.workflow.paths import DATASET

SPLITS = ("train", "validation", "test")
# An encoded image (JPEG or PNG, RGB) and the index of its class.
Example = tuple[bytes, int]


class Entry(NamedTuple):
    """An image that a source has, without its pixels."""

    # Its path, or its number among the images of its split.
    where: Path | int
    label: int
    # SHA-256 of its encoded bytes. Copies are images with the same; one that was encoded anew is none.
    digest: bytes


def write(directory: Path, labels: Iterable[str], splits: dict[str, Callable[[], Iterator[Example]]]) -> None:
    """Prepare `directory` from functions that go through the examples of each split. Equal input, equal bytes."""
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=list(labels))}
    )

    def keyed(examples: Iterator[Example]) -> Iterator[tuple[int, dict]]:
        for key, (encoded, label) in enumerate(examples):
            yield key, {"image": io.BytesIO(encoded), "label": label}

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # Bytes of a split that TFDS keeps in memory before it sorts them on disk: otherwise 1 GB.
    shuffle.MAX_MEM_BUFFER_SIZE = 64 * 2**20
    # Protobuf otherwise orders an example's features differently from process to process.
    ExampleSerializer.serialize_example = lambda self, example: self.get_tf_example(example).SerializeToString(
        deterministic=True
    )
    with whole(directory) as temporary:
        builder = tfds.dataset_builders.AdhocBuilder(
            name="dataset",
            version="1.0.0",
            features=features,
            split_datasets={name: keyed(examples()) for name, examples in splits.items()},
            data_dir=temporary.parent / "tfds",
        )
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        os.replace(builder.data_dir, temporary)


def assign_splits(entries: list[Entry], *, validation: float, test: float) -> list[str]:
    """The split of each image, in order: stratified by class, drawn by digest, the lowest held out.

    The draw depends neither on order nor on a seed, and copies of an image always share a split.
    """
    by_class = defaultdict(list)
    for digest, label in sorted({entry.digest: entry.label for entry in entries}.items()):
        by_class[label].append(digest)
    split_of = {}
    for digests in by_class.values():
        held_out = round(len(digests) * test), round(len(digests) * (test + validation))
        for rank, digest in enumerate(digests):
            split_of[digest] = "test" if rank < held_out[0] else "validation" if rank < held_out[1] else "train"
    return [split_of[entry.digest] for entry in entries]


def labels(directory: Path = DATASET) -> tuple[str, ...]:
    """Class names in the order of the labels' numbers."""
    return tuple(_builder(directory).info.features["label"].names)


def count(split: str, directory: Path = DATASET) -> int:
    """Number of images in a split."""
    return _builder(directory).info.splits[split].num_examples


def digest(directory: Path = DATASET) -> str:
    """SHA-256 of all files of the data set."""
    whole_set = hashlib.sha256()
    for path in sorted(_builder(directory).data_path.iterdir()):
        with path.open("rb") as file:
            whole_set.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole_set.hexdigest()


def median_area(directory: Path = DATASET) -> int:
    """Median number of pixels of the training images, read from their headers alone."""
    sizes = (Image.open(io.BytesIO(encoded)).size for encoded, _ in encoded_examples(_builder(directory).info, "train"))
    return int(np.median([width * height for width, height in sizes]))


class Pixels:
    """The images of a split as an array uint8 [images, height, width, 3] in 0..255 that memory need not hold.

    Indexed by an integer, a slice or an array of integers. Images are decoded as they are asked for, in threads; the
    first `cache_mb` (10^6 bytes) of them are kept from then on. As in BiT, resizing does not keep the aspect; it is
    Pillow's (bilinear, antialiased), the same for training, calibration and evaluation.
    """

    def __init__(
        self, records: list[tuple[Path, int, int]], decode: Callable[[bytes], np.ndarray], shape, cache_mb: int
    ):
        self.shape = (len(records), *shape)
        self._records, self._decode = records, decode
        kept = min(len(records), cache_mb * 10**6 // max(1, math.prod(shape)))
        # Memory that is not written to is not taken.
        self._cache, self._cached = np.empty((kept, *shape), np.uint8), np.zeros(len(records), bool)
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        return map(self._image, range(len(self)))

    def __getitem__(self, chosen):
        chosen = np.arange(len(self))[chosen]
        if chosen.ndim == 0:
            return self._image(chosen)
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        cached = self._cached[chosen]
        pixels[cached] = self._cache[chosen[cached]]

        def fill(places):
            for place in places:
                pixels[place] = self._image(chosen[place])

        list(self._threads.map(fill, np.array_split(np.flatnonzero(~cached), os.cpu_count())))
        return pixels

    def _image(self, index):
        if self._cached[index]:
            return self._cache[index]
        image = self._decode(_record(*self._records[index]))
        if index < len(self._cache):
            self._cache[index] = image
            self._cached[index] = True
        return image


def read(
    split: str, size: tuple[int, int], directory: Path = DATASET, *, cache_mb: int = 0
) -> tuple[Pixels, np.ndarray]:
    """The images of a split, resized to `size` (height, width), and their labels int32 [images]."""
    info = _builder(directory).info

    def decode(record: bytes) -> np.ndarray:
        encoded, _ = _example(info, record)
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))

    records = list(_records(info, split))
    labels = [_example(info, _record(*record))[1] for record in tqdm(records, f"read {split}", disable=None)]
    return Pixels(records, decode, (*size, 3), cache_mb), np.array(labels, np.int32)


def encoded_examples(info: tfds.core.DatasetInfo, split: str, *, keys=("image", "label")) -> Iterator[Example]:
    """The examples of a split of any TFDS set of TFRecords, as they are stored; `keys` are its features' names."""
    for record in _records(info, split):
        yield _example(info, _record(*record), keys)


def _example(info: tfds.core.DatasetInfo, record: bytes, keys=("image", "label")) -> Example:
    image, label = keys
    example = info.features.deserialize_example_np(record, decoders={image: tfds.decode.SkipDecoding()})
    return example[image], int(example[label])


def _records(info: tfds.core.DatasetInfo, split: str) -> Iterator[tuple[Path, int, int]]:
    """File, offset and length in bytes of every record of a split."""
    for name, count in zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True):
        path = Path(name)
        try:
            # TFRecord: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes).
            with path.open("rb") as file:
                for _ in range(count):
                    (length,) = struct.unpack("<Q4x", file.read(12))
                    yield path, file.tell(), length
                    file.seek(length + 4, os.SEEK_CUR)
        except (OSError, struct.error) as error:
            raise _damaged(path) from error


def _record(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            record = file.read(length + 4)
    except OSError as error:
        raise _damaged(path) from error
    if len(record) < length + 4:
        raise _damaged(path)
    return record[:-4]


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} does not hold all of its images; remove its directory and prepare it again")


def _builder(directory: Path) -> tfds.core.DatasetBuilder:
    if not (directory / "dataset_info.json").exists():
        raise InputError(f"{directory} is no prepared data set; run: dvc repro download")
    return tfds.builder_from_directory(directory)
