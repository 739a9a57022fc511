"""The prepared data set: a TFDS directory with the splits train, validation and test. Reading needs no TensorFlow."""

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tqdm import tqdm

from bitlite.images import decoding, records
from bitlite.images.pixels import Pixels
from bitlite.images.records import Example
from bitlite.workflow.errors import InputError, one_line
from bitlite.workflow.files import whole
from bitlite.workflow.paths import DATASET

SPLITS = ("train", "validation", "test")


def write(directory: Path, labels: Iterable[str], splits: Mapping[str, Callable[[], Iterator[Example]]]) -> None:
    """Prepare `directory` from functions that go through the examples of each split. Equal input, equal bytes.

    Raises InputError if it can't be written.
    """
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
    # It would look online for what is known of a set of this name, and leave an empty folder among temporary files.
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    with whole(directory) as temporary:
        builder = tfds.dataset_builders.AdhocBuilder(
            name="dataset",
            version="1.0.0",
            features=features,
            split_datasets={name: keyed(examples()) for name, examples in splits.items()},
            data_dir=temporary.parent / "tfds",
        )
        # TFDS prints where it prepares: here a scratch directory, which is nobody's business.
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except RuntimeError as error:  # of TensorFlow's writer, such as that the disk is full
            raise InputError(f"{directory} can't be written: {one_line(error)}") from error
        os.replace(builder.data_dir, temporary)


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
    images = (Image.open(io.BytesIO(encoded)) for encoded, _ in examples("train", directory))
    return int(np.median([image.width * image.height for image in images]))


def examples(split: str, directory: Path = DATASET) -> Iterator[Example]:
    """The images of a split as they are stored, with their labels; `decoding.upright_rgb` shows them.

    TFDS decodes them as well, but does not follow the EXIF orientation of a JPEG, as no decoder of TensorFlow's does.
    """
    return records.examples(_builder(directory).info, split)


def read(
    split: str, size: tuple[int, int], directory: Path = DATASET, *, cache_mb: int = 0
) -> tuple[Pixels, np.ndarray]:
    """The images of a split, resized to `size` (height, width), and their labels int32 [images].

    They are those of `decoding.pixels`. `cache_mb`, in 10^6 bytes, bounds how many memory keeps.
    """
    info = _builder(directory).info
    places = list(records.records(info, split))
    labels = [records.example(info, place)[1] for place in tqdm(places, f"read {split}", disable=None)]

    def decode(number: int) -> np.ndarray:
        encoded, _ = records.example(info, places[number])
        try:
            return decoding.pixels(encoded, size)
        except Exception as error:  # Pillow's decoders raise whatever a damaged image makes them stumble over
            raise places[number].unreadable(one_line(error)) from error

    return Pixels(len(places), size, decode, cache_mb=cache_mb), np.array(labels, np.int32)


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
