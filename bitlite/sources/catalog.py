"""Data sets that TFDS prepared: those of its catalog, downloaded if need be, and one's own."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.file_adapters import FileFormat

from bitlite.images import records
from bitlite.images.dataset import SPLITS
from bitlite.images.records import Example
from bitlite.sources import names, splits
from bitlite.sources.source import Entry, Source, among, numbered
from bitlite.workflow.errors import InputError, listed, one_line

# By this file one knows the directory of a prepared set.
INFO = "dataset_info.json"
# Asked for an answer, before a set is downloaded that does not say where from.
TFDS_SITE = "https://storage.googleapis.com/tfds-data"
# For its answer. TFDS itself would try again for minutes.
TIMEOUT_S = 10
PREPARED_COPY = "give the TFDS directory that holds a prepared copy as dataset.data_dir"


def builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder | None:
    """The set of this `name` that TFDS knows or `data_dir` holds, if there is one.

    data_dir: the TFDS directory that holds it or will; None for TFDS's own.

    Raises InputError if TFDS knows the set, but can't load it so.
    """
    try:
        return tfds.builder(name, data_dir=data_dir and os.path.expanduser(data_dir))
    except (AssertionError, ImportError, ValueError) as error:
        # The name may go on with a configuration or a version.
        if re.split("[/:]", name)[0] not in tfds.list_builders(with_community_datasets=False):
            return None
        raise InputError(f"dataset.name is {name!r}, which TFDS can't load: {one_line(error)}") from error


def builder_in(directory: Path) -> tfds.core.DatasetBuilder | None:
    """The prepared set whose files, or whose one version, `directory` holds, if it does."""
    versions = sorted(path.parent for path in directory.glob(f"*/{INFO}"))
    prepared = [directory] if os.path.isfile(directory / INFO) else versions
    if len(prepared) > 1:
        raise InputError(f"dataset.name is {str(directory)!r}, which holds several sets; name one: {listed(prepared)}")
    try:
        return tfds.builder_from_directory(prepared[0]) if prepared else None
    except Exception as error:  # whatever files that were damaged or written by another version make it stumble over
        raise InputError(f"dataset.name is {str(directory)!r}, which TFDS can't load: {one_line(error)}") from error


def source(name: str, builder: tfds.core.DatasetBuilder) -> Source:
    """The splits train, validation and test of a data set, under any usual name, as far as it has them with labels.

    Prints to stderr which splits, and which classes without images, are left out.

    Raises InputError if TFDS can't prepare the set, if this project can't read its files, if its images have no single
    class, if names of classes have a fault, or if there is no labelled split train.
    """
    keys = _image_and_class(name, builder.info)
    if not builder.is_prepared():
        _download(name, builder)
    present, called = builder.info.splits, _called(builder.info.splits)
    own = {
        split: entries
        for split, its in called.items()
        if (entries := numbered(_examples(name, builder.info, its, keys), present[its].num_examples))
    }
    if "train" not in own:
        raise InputError(f"dataset.name is {name!r}, which has no labelled split train; it has: {', '.join(present)}")
    taken = [called[split] for split in own]
    if left := [f"{its} ({present[its].num_examples})" for its in present if its not in taken]:
        print(f"{name}: left out splits without labels or of another purpose: {', '.join(left)}", file=sys.stderr)

    classes = builder.info.features[keys[1]].names
    used = sorted({entry.label for entries in own.values() for entry in entries})
    if unused := [one for label, one in enumerate(classes) if label not in used]:
        print(f"{name}: left out classes without images: {listed(unused)}", file=sys.stderr)
    if faults := names.faults(classes[label] for label in used):
        told = "; ".join(f"{fault}: {listed(faulty)}" for fault, faulty in faults.items())
        raise InputError(f"dataset.name is {name!r}, which has {told}")
    label_of = {before: label for label, before in enumerate(used)}

    def fetch(split: str, chosen: list[Entry]) -> Iterator[Example]:
        examples = among(_examples(name, builder.info, called[split], keys), chosen)
        return ((encoded, label_of[before]) for encoded, before in examples)

    relabelled = {split: [e._replace(label=label_of[e.label]) for e in entries] for split, entries in own.items()}
    return Source(tuple(classes[label] for label in used), relabelled, fetch)


def _called(present: Iterable[str]) -> dict[str, str]:
    """What a set calls the splits that it has. Of several names for a split its own counts, or else the first."""
    meaning = {name: split for name in present if (split := splits.known(name))}
    return {
        split: split if split in meaning else next(name for name in meaning if meaning[name] == split)
        for split in SPLITS
        if split in meaning.values()
    }


def _examples(name: str, info: tfds.core.DatasetInfo, split: str, keys: tuple[str, str]) -> Iterator[Example]:
    match info.file_format:
        case FileFormat.TFRECORD:
            return records.examples(info, split, keys)
        case FileFormat.ARRAY_RECORD:
            return (records.parsed(info, content, keys) for content in _array_records(name, info.splits[split]))
    raise InputError(
        f"dataset.name is {name!r}, whose files are {info.file_format.value}; prepare it as tfrecord or array_record"
    )


def _array_records(name: str, split: tfds.core.SplitInfo) -> Iterator[bytes]:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:  # there is none for macOS
        raise InputError(
            f"dataset.name is {name!r}, whose files are array_record; install the package array_record, or prepare the "
            "set as tfrecord"
        ) from error
    for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
        reader = ArrayRecordReader(os.fspath(path))
        if reader.num_records() != count:  # 0 of a file that is gone or damaged
            raise records.damaged(Path(path))
        try:
            yield from (reader.read() for _ in range(count))
        except RuntimeError as error:
            raise records.damaged(Path(path)) from error


def _image_and_class(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Names of the features that hold the image and its class."""
    features = dict(info.features.items())
    for keys in (info.supervised_keys, records.KEYS):
        match keys and [features.get(key) if isinstance(key, str) else None for key in keys[:2]]:
            case tfds.features.Image(np_dtype=np.uint8), tfds.features.ClassLabel():
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
