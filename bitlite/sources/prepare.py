"""Prepares the data set that params.yaml names: opens its source, draws splits, drops copies, writes."""

import hashlib
import os
from collections import Counter, defaultdict
from pathlib import Path

from bitlite.images import dataset
from bitlite.sources import bucket, catalog, digits, folder, splits, tfds_set, tree
from bitlite.sources.likeness import alike
from bitlite.sources.source import Entry, Source
from bitlite.sources.unfinished import Unfinished, decoders, unfinished
from bitlite.workflow.errors import LISTED, InputError, listed, one_line, tell
from bitlite.workflow.params import Dataset
from bitlite.workflow.paths import DATASET, found


def prepare(params: Dataset, directory: Path = DATASET, *, interrupted: Path | None = None) -> None:
    """Write the data set that `params` names to `directory`, with the splits train, validation and test.

    A split that the source has is kept; the others are drawn from its training images. No image is in two splits: it
    goes to the test split rather than to validation, and there rather than to training. Neither is a group. Copies are
    found by their pixels, whatever file they are in. Prints to stderr which images were found twice or are left out,
    and which classes a split lacks.

    interrupted: a folder for what is done until all is, if killed it goes on from there. None: it starts over.

    Raises InputError, before anything is written, if the name is neither embedded, nor a TFDS set, nor a folder, or the
    source can't be fetched, has problems (see `folder.source`), has too few images, or a class without training images.
    """
    with unfinished(interrupted) as kept:
        source = _open(params, kept)
        if params.group and not any(entry.group for entries in source.splits.values() for entry in entries):
            raise InputError(f"dataset.group is {params.group!r}, which matches no file name of {params.name!r}")
        own = splits.without_leaks(source.splits)
        _report(params.name, source.splits, own)
        chosen = _divided(own, params)
        if params.examples_per_class:
            chosen["train"] = splits.few_of_each(chosen["train"], source.labels, params.examples_per_class)
        if params.max_examples:
            chosen = {name: splits.sample(entries, params.max_examples) for name, entries in chosen.items()}
        _check_classes(params, source.labels, chosen)
        _report_alike(params.name, chosen)
        chosen = {split: chosen[split] for split in dataset.SPLITS}
        dataset.write(
            directory,
            source.labels,
            chosen,
            lambda split, entries: source.fetch(split if split in own else "train", entries),
            unfinished=kept.records(_identity(params, source.labels, chosen)),
        )


def _identity(params: Dataset, labels: tuple[str, ...], chosen: dict[str, list[Entry]]) -> str:
    """What tells the records of a data set from all others."""
    decided = (os.path.realpath(params.name), params.data_dir, params.background, labels, dataset.SHARD, decoders())
    whole_set = hashlib.sha256(repr(decided).encode())
    for split, entries in chosen.items():
        whole_set.update(repr((split, len(entries))).encode())
        for entry in entries:
            whole_set.update(f"{entry.where} {entry.label} ".encode(errors="surrogateescape") + entry.digest)
    return whole_set.hexdigest()[:16]


def _open(params: Dataset, kept: Unfinished) -> Source:
    embedded = params.name == "mnist5k"
    directory = None if embedded or "://" in params.name else _directory(params.name)
    address = None if embedded or directory else bucket.address(params.name, params.data_dir)
    if params.group and not directory:
        raise InputError(
            f"dataset.group is {params.group!r}, which is about names of files in a folder, but {params.name!r} is none"
        )
    if embedded:
        return digits.source()
    if address:
        directory = bucket.copy(address, kept.copy(address))
    prepared = catalog.builder_in(directory) if directory else catalog.builder(params.name, params.data_dir)
    skip = params.on_error == "skip"
    if prepared:
        return tfds_set.source(params.name, prepared, skip=skip, background=params.background)
    if directory:
        return folder.source(directory, skip=skip, group=params.group, background=params.background, unfinished=kept)
    there = params.data_dir or "the folder of TFDS"
    if params.data_dir and not os.path.isdir(os.path.expanduser(params.data_dir)):
        there = f"dataset.data_dir, {params.data_dir}, which is not there"
    raise InputError(
        f"dataset.name is {params.name!r}: neither mnist5k, nor a folder, nor a TFDS set, be it in the catalog "
        f"(https://www.tensorflow.org/datasets/catalog/overview) or in {there}"
    )


def _directory(name: str) -> Path | None:
    """The directory of this name, if there is one; see `found`.

    Raises InputError if the name can't be looked up, or is that of a file.
    """
    try:
        path = found(name)
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"dataset.name is {name!r}: {getattr(error, 'strerror', None) or one_line(error)}") from error
    if not path.is_dir():
        raise InputError(f"dataset.name is {name!r}, which is a file; {tree.EXPECTED}")
    return path


def _divided(own: dict[str, list[Entry]], params: Dataset) -> dict[str, list[Entry]]:
    """All three splits: the source's own, the missing ones drawn from train. Raises InputError if one is empty."""
    shares = {name: getattr(params, name) for name in ("validation", "test") if name not in own}
    drawn = splits.assign(own["train"], **{"validation": 0.0, "test": 0.0, **shares})
    divided = own | {
        name: [entry for entry, split in zip(own["train"], drawn, strict=True) if split == name]
        for name in ("train", *shares)
    }
    for name, entries in divided.items():
        if not entries:
            grouped = f" (groups: {len({entry.group for entry in own['train']})})" if params.group else ""
            why = "a group is in one split, and " if params.group else ""
            raise InputError(
                f"dataset.name is {params.name!r}, whose {len(drawn)} images{grouped} leave none for {name}: {why}an "
                f"image of each class stays in training; give the classes more images, or raise dataset.{name}"
            )
    return divided


def _check_classes(params: Dataset, labels: tuple[str, ...], chosen: dict[str, list[Entry]]) -> None:
    """Print which classes a split has no image of. Raises InputError if that split is train."""
    for split, entries in chosen.items():
        present = {entry.label for entry in entries}
        lacking = [name for label, name in enumerate(labels) if label not in present]
        if not lacking:
            continue
        if split != "train":
            tell(f"{params.name}: classes without {split} images ({len(lacking)}): {listed(lacking)}")
        elif params.max_examples and params.max_examples < len(labels):
            raise InputError(f"dataset.max_examples is {params.max_examples}, fewer than the {len(labels)} classes")
        else:
            raise InputError(
                f"dataset.name is {params.name!r}, which has classes without training images ({len(lacking)}): "
                f"{listed(lacking)}; give them some, or leave the classes out"
            )


def _report(source: str, found: dict[str, list[Entry]], kept: dict[str, list[Entry]]) -> None:
    """Print how many images each split of `source` has, and which are copies or left out."""
    for name, entries in found.items():
        first: dict[bytes, Entry] = {}
        copies = [entry.where for entry in entries if first.setdefault(entry.digest, entry) is not entry]
        leaks = [entry.where for entry in sorted(set(entries) - set(kept[name]))]
        title = source if len(found) == 1 else f"{source}, {name}"
        tell(f"{title}: {len(entries)} images, {_counted(copies, 'copies of others')}")
        if leaks:
            of_groups = " or has others of their group" if any(entry.group for entry in entries) else ""
            tell(f"{title}: left out {_counted(leaks, f'that a later split has too{of_groups}')}")


def _report_alike(source: str, chosen: dict[str, list[Entry]]) -> None:
    """Print which images look alike without being equal, but are in different splits or classes."""
    counts, first = Counter[str](), defaultdict(list)
    for (split, one), (another, other) in alike(chosen):
        kind = "splits" if split != another else "classes"
        counts[kind] += 1
        if counts[kind] <= LISTED:
            first[kind].append(f"{one.where} and {other.where}")
    for kind, pairs in sorted(first.items()):
        tell(
            f"{source}: {counts[kind]} pairs of images in different {kind} that look alike, such as thumbnails and a "
            f"picture encoded twice do: {listed(pairs)}"
        )


def _counted(places: list, kind: str) -> str:
    return f"{len(places)} {kind}" + (f": {listed(places)}" if places else "")
