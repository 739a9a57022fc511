"""The prepared data set: a TFDS directory with the splits train, validation and test. Reading needs no TensorFlow."""

import hashlib
import io
import os
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from stages import InputError
from stages.artifacts import DATASET, whole

SPLITS = ("train", "validation", "test")
# An encoded image (JPEG or PNG, RGB) and the index of its class.
Example = tuple[bytes, int]


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


def assign_splits(examples: Iterable[Example], *, validation: float, test: float) -> list[str]:
    """The split of each example, in order: stratified by class, drawn by a hash of the image's bytes.

    The draw depends neither on order nor on a seed, and copies of an image always share a split.
    """
    hashes = [(hashlib.sha256(encoded).digest(), label) for encoded, label in examples]
    by_class = defaultdict(set)
    for digest, label in hashes:
        by_class[label].add(digest)
    split_of = {}
    for digests in by_class.values():
        held_out = round(len(digests) * test), round(len(digests) * (test + validation))
        for rank, digest in enumerate(sorted(digests)):
            split_of[digest] = "test" if rank < held_out[0] else "validation" if rank < held_out[1] else "train"
    return [split_of[digest] for digest, _ in hashes]


def labels(directory: Path = DATASET) -> tuple[str, ...]:
    """Class names in the order of the labels' numbers."""
    return tuple(_builder(directory).info.features["label"].names)


def count(split: str, directory: Path = DATASET) -> int:
    """Number of images in a split."""
    return _builder(directory).info.splits[split].num_examples


def median_area(directory: Path = DATASET) -> int:
    """Median number of pixels of the training images, read from their headers alone."""
    sizes = (Image.open(io.BytesIO(encoded)).size for encoded, _ in encoded_examples(_builder(directory).info, "train"))
    return int(np.median([width * height for width, height in sizes]))


def read(split: str, size: tuple[int, int], directory: Path = DATASET) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split, resized to `size` (height, width), and their labels.

    Returns uint8 [images, height, width, 3] in 0..255 and int32 [images]. As in BiT, resizing does not keep the
    aspect; it is Pillow's (bilinear, antialiased), the same for training, calibration and evaluation.
    """
    info = _builder(directory).info
    count = info.splits[split].num_examples
    images, numbers = np.empty((count, *size, 3), np.uint8), np.empty(count, np.int32)
    for index, (encoded, label) in enumerate(tqdm(encoded_examples(info, split), split, count, disable=None)):
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        images[index] = image.resize(size[::-1], Image.Resampling.BILINEAR)
        numbers[index] = label
    return images, numbers


def encoded_examples(info: tfds.core.DatasetInfo, split: str) -> Iterator[Example]:
    """The examples of a split of any TFDS set of TFRecords, as they are stored."""
    undecoded = {"image": tfds.decode.SkipDecoding()}
    for path, count in zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True):
        for record in _records(Path(path), count):
            example = info.features.deserialize_example_np(record, decoders=undecoded)
            yield example["image"], int(example["label"])


def _records(path: Path, count: int) -> Iterator[bytes]:
    # TFRecord: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes).
    try:
        with path.open("rb") as file:
            for _ in range(count):
                (length,) = struct.unpack("<Q4x", file.read(12))
                record = file.read(length + 4)
                if len(record) < length + 4:
                    raise EOFError
                yield record[:-4]
    except (OSError, EOFError, struct.error) as error:
        raise InputError(
            f"{path} does not hold its {count} images; remove its directory and prepare it again"
        ) from error


def _builder(directory: Path) -> tfds.core.DatasetBuilder:
    if not (directory / "dataset_info.json").exists():
        raise InputError(f"{directory} is no prepared data set; run: dvc repro download")
    return tfds.builder_from_directory(directory)
