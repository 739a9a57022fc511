"""Data sets of TFDS's catalog, prepared already or downloaded."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
import requests
import tensorflow_datasets as tfds
from tqdm import tqdm

from bitlite.images import records
from bitlite.images.dataset import SPLITS
from bitlite.images.records import Example
from bitlite.sources.inspection import Located, in_parallel, inspect
from bitlite.sources.source import Entry, Source
from bitlite.workflow.errors import InputError, one_line

# Asked for an answer, before a set is downloaded that does not say where from.
TFDS_SITE = "https://storage.googleapis.com/tfds-data"
# For its answer. TFDS itself would try again for minutes.
TIMEOUT_S = 10
PREPARED_COPY = "give the TFDS directory that holds a prepared copy as dataset.data_dir"


def knows(name: str) -> bool:
    """Whether the catalog has a data set of this name, which may go on with a configuration or a version."""
    return re.split("[/:]", name)[0] in tfds.list_builders(with_community_datasets=False)


def source(name: str, data_dir: str | None, *, background: str = "white") -> Source:
    """The splits train, validation and test of a data set, as far as it has them with labels.

    data_dir: the TFDS directory that holds it or will; None for TFDS's own.

    Raises InputError if TFDS can't load or prepare it, if its images have no single class, or if it has no labelled
    split train, or an image that can't be read.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (AssertionError, ImportError, ValueError) as error:
        raise InputError(f"dataset.name is {name!r}, which TFDS can't load: {one_line(error)}") from error
    keys = _image_and_class(name, builder.info)
    if not builder.is_prepared():
        _download(name, builder)
    examples = partial(records.examples, builder.info, keys=keys)
    present = builder.info.splits
    splits, fetch = _inspected(name, examples, [split for split in SPLITS if split in present], background)
    if "train" not in splits:
        raise InputError(f"dataset.name is {name!r}, which has no labelled split train; it has: {', '.join(present)}")
    labels = tuple(builder.info.features[keys[1]].names)
    return Source(labels, splits, fetch)


def _inspected(
    name: str, examples: Callable[[str], Iterator[Example]], splits: list[str], background: str
) -> tuple[dict[str, list[Entry]], Callable[[str, list[Entry]], Iterator[Example]]]:
    """The images of `splits` that have a label, by split and number, and what fetches some of a split.

    Raises InputError naming an image that can't be read.
    """
    labels = {}

    def located(only: Collection | None) -> Iterator[Located]:
        for split in splits:
            for number, (encoded, label) in enumerate(tqdm(examples(split), f"hash {split}", disable=None)):
                # TFDS gives -1 to an image whose class is kept secret.
                if label >= 0 and (only is None or (split, number) in only):
                    labels[split, number] = label
                    yield (split, number), lambda encoded=encoded: encoded

    def fetch(split: str, chosen: list[Entry]) -> Iterator[Example]:
        wanted = {entry.where for entry in chosen}
        numbered = (found for found in enumerate(examples(split)) if found[0] in wanted)
        return in_parallel(lambda one: (seen.stored((split, one[0]), one[1][0]), one[1][1]), numbered)

    seen = inspect(located, background)
    for (split, number), error in seen.failed.items():
        raise InputError(f"dataset.name is {name!r}, whose image {number} of {split} can't be read: {one_line(error)}")
    entries = defaultdict(list)
    for (split, number), digest in seen.digests.items():
        entries[split].append(Entry(number, labels[split, number], digest))
    return dict(entries), fetch


def _image_and_class(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Names of the features that hold the image and its class."""
    features = dict(info.features.items())
    for keys in (info.supervised_keys, records.KEYS):
        match keys and [features.get(key) if isinstance(key, str) else None for key in keys[:2]]:
            case tfds.features.Image(np_dtype=np.uint8 | np.uint16), tfds.features.ClassLabel():
                return keys[:2]
    kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise InputError(f"dataset.name is {name!r}, which has no image with one class label; its features: {kinds}")


def _download(name: str, builder: tfds.core.DatasetBuilder) -> None:
    address = next(iter(builder.url_infos), TFDS_SITE)
    # Sets whose files the user must put in place by hand are not downloaded from their address.
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
            f"dataset.name is {name!r}, which TFDS can't prepare: {one_line(error)}; {PREPARED_COPY}"
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
