"""The images of a data set that TFDS prepared."""

import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.file_adapters import FileFormat
from tqdm import tqdm

from bitlite.images import records
from bitlite.images.dataset import SPLITS
from bitlite.images.records import Example, Records
from bitlite.sources import catalog, names
from bitlite.sources.inspection import Located, in_parallel, inspect
from bitlite.sources.source import Entry, Source
from bitlite.sources.splits import known
from bitlite.workflow.errors import InputError, listed, one_line, tell

# Options of a reader of array_record that is asked for records here and there: it need not read on.
ONE_BY_ONE = "readahead_buffer_size:0,max_parallelism:0"


def source(name: str, builder: tfds.core.DatasetBuilder, *, skip: bool = False, background: str = "white") -> Source:
    """The splits train, validation and test of a data set, under any usual name, as far as it has them with labels.

    Prints to stderr which splits, and which classes without images, are left out, and with `skip` which images that
    can't be read.

    Raises InputError if TFDS can't prepare the set, if its files or, without `skip`, an image can't be read, if images
    have no single class, if names of classes have a fault or are alike, or if there is no labelled split train.
    """
    keys = _image_and_class(name, builder.info)
    if not builder.is_prepared():
        catalog.download(name, builder)
    present, called = builder.info.splits, _called(builder.info.splits)

    stored = {split: _stored(name, builder.info, its, keys) for split, its in called.items()}
    own, fetch = _inspected(name, stored, skip, background)
    if "train" not in own:
        raise InputError(f"dataset.name is {name!r}, which has no labelled split train; it has: {', '.join(present)}")
    taken = [called[split] for split in own]
    if left := [f"{its} ({present[its].num_examples})" for its in present if its not in taken]:
        tell(f"{name}: left out splits without labels or of another purpose: {', '.join(left)}")
    classes = builder.info.features[keys[1]].names
    used = sorted({entry.label for entries in own.values() for entry in entries})
    if unused := [classes[label] for label in sorted(set(range(len(classes))) - set(used))]:
        tell(f"{name}: left out classes without images: {listed(unused)}")
    faults = names.faults(classes[label] for label in used)
    if twice := [ascii(one) for one, count in Counter(classes[label] for label in used).items() if count > 1]:
        faults["several classes of one name"] = twice
    if faults:
        told = "; ".join(f"{fault}: {listed(faulty)}" for fault, faulty in faults.items())
        raise InputError(f"dataset.name is {name!r}, which has {told}")
    label_of = {before: label for label, before in enumerate(used)}
    splits = {split: [e._replace(label=label_of[e.label]) for e in entries] for split, entries in own.items()}
    return Source(
        tuple(classes[label] for label in used),
        splits,
        lambda split, chosen: ((encoded, label_of[before]) for encoded, before in fetch(split, chosen)),
    )


def _image_and_class(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Names of the features that hold the image and its class."""
    features = dict(info.features.items())
    for keys in (info.supervised_keys, records.KEYS):
        match keys and [features.get(key) if isinstance(key, str) else None for key in keys[:2]]:
            case tfds.features.Image(np_dtype=np.uint8 | np.uint16), tfds.features.ClassLabel():
                return keys[:2]
    kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise InputError(f"dataset.name is {name!r}, which has no image with one class label; its features: {kinds}")


def _called(present: Iterable[str]) -> dict[str, str]:
    """What a set calls the splits that it has. Of several names for a split its own counts, or else the first."""
    meaning = {name: split for name in present if (split := known(name))}
    return {
        split: split if split in meaning else next(name for name in meaning if meaning[name] == split)
        for split in SPLITS
        if split in meaning.values()
    }


def _inspected(
    name: str, stored: dict[str, Sequence[Example]], skip: bool, background: str
) -> tuple[dict[str, list[Entry]], Callable[[str, list[Entry]], Iterator[Example]]]:
    """The images of splits that have a label, by split and number, and what fetches some of a split.

    Raises InputError naming images that can't be read, unless `skip`: then they are printed.
    """
    labels: dict[tuple[str, int], int] = {}

    def located(only: Collection | None) -> Iterator[Located]:
        if only is not None:
            for split, number in sorted(only):
                yield (split, number), partial(bytes, stored[split][number][0])
            return
        for split, examples in stored.items():
            for number, (encoded, label) in enumerate(tqdm(examples, f"hash {split}", disable=None)):
                if label >= 0:  # TFDS gives -1 to an image whose class is kept secret
                    labels[split, number] = label
                    yield (split, number), partial(bytes, encoded)

    def fetch(split: str, chosen: list[Entry]) -> Iterator[Example]:
        numbered = ((entry.where, *stored[split][entry.where]) for entry in chosen)
        return in_parallel(lambda one: (seen.storage.stored((split, one[0]), one[1]), one[2]), numbered)

    seen = inspect(located, background)
    if seen.failed:
        told = listed(f"{number} of {split}, {one_line(error)}" for (split, number), error in seen.failed.items())
        problem = f"images that can't be read ({len(seen.failed)}): {told}"
        if not skip:
            raise InputError(f"dataset.name is {name!r}, which has {problem}; leave them out by dataset.on_error: skip")
        tell(f"{name}: left out {problem}")
    entries = defaultdict(list)
    if seen.several:
        tell(f"{name}: of several images in a file the first is used ({len(seen.several)} files)")
    for kind, span in seen.storage.spans.items():
        tell(f"{name}: in images of {kind} samples {span} is shown as black to white")
    for (split, number), digest in seen.digests.items():
        look = seen.looks[split, number]
        entries[split].append(Entry(number, labels[split, number], digest, look=look))
    return dict(entries), fetch


def _stored(name: str, info: tfds.core.DatasetInfo, split: str, keys: tuple[str, str]) -> Sequence[Example]:
    match info.file_format:
        case FileFormat.TFRECORD:
            return _Stored(Records(info, split), lambda record: records.example(record, keys))
        case FileFormat.ARRAY_RECORD:
            return _Stored(_ArrayRecords(name, info.splits[split]), lambda content: records.parsed(content, keys))
    raise InputError(
        f"dataset.name is {name!r}, whose files are {info.file_format.value}; prepare it as tfrecord or array_record"
    )


class _Stored(Sequence[Example]):
    """What `read` makes of each of `found`."""

    def __init__(self, found: Sequence, read: Callable[..., Example]) -> None:
        self._found, self._read = found, read

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, number):
        return self._read(self._found[number])


class _ArrayRecords(Sequence[bytes]):
    """The records of files in array_record."""

    def __init__(self, name: str, split: tfds.core.SplitInfo) -> None:
        """Raises InputError naming a file that can't be read, or does not hold all of its records."""
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError as error:  # there is none for macOS
            raise InputError(
                f"dataset.name is {name!r}, whose files are array_record; install the package array_record, or prepare "
                "the set as tfrecord"
            ) from error
        self._paths, self._ends = split.filepaths, list(accumulate(split.shard_lengths))
        self._readers = [ArrayRecordReader(os.fspath(path), ONE_BY_ONE) for path in self._paths]
        for path, reader, count in zip(self._paths, self._readers, split.shard_lengths, strict=True):
            if reader.num_records() != count:  # 0 of a file that is gone or damaged
                raise records.damaged(Path(path))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = bisect_right(self._ends, number)
        try:
            (content,) = self._readers[file].read([number - (self._ends[file - 1] if file else 0)])
        except RuntimeError as error:
            raise records.damaged(Path(self._paths[file])) from error
        return content
