"""Prepares the data set that params.yaml names: opens its source, draws splits, drops copies, writes."""

import sys
from functools import partial
from pathlib import Path

from bitlite.images import dataset
from bitlite.sources import catalog, digits, folder, splits
from bitlite.sources.source import Entry, Source
from bitlite.workflow.errors import InputError, listed
from bitlite.workflow.params import Dataset
from bitlite.workflow.paths import DATASET


def prepare(params: Dataset, directory: Path = DATASET) -> None:
    """Write the data set that `params` names to `directory`, with the splits train, validation and test.

    A split that the source has is kept; the others are drawn from its training images. No image is in two splits: it
    goes to the test split rather than to validation, and there rather than to training. Copies are found by their
    pixels, whatever file they are in. Prints to stderr which images were found twice or are left out.

    Raises InputError, before anything is written, if the name is neither embedded, nor a TFDS set, nor a folder, or the
    source can't be fetched, has problems (see `folder.source`), or has too few images.
    """
    source = _open(params)
    own = splits.without_leaks(source.splits)
    _report(params.name, source.splits, own)
    chosen = _divided(own, params)
    if params.examples_per_class:
        chosen["train"] = splits.few_of_each(chosen["train"], source.labels, params.examples_per_class)
    if params.max_examples:
        chosen = {name: splits.sample(entries, params.max_examples) for name, entries in chosen.items()}
    examples = {name: partial(source.fetch, name if name in own else "train", chosen[name]) for name in dataset.SPLITS}
    dataset.write(directory, source.labels, examples)


def _open(params: Dataset) -> Source:
    if params.name == "mnist5k":
        return digits.source()
    if Path(params.name).is_dir():
        return folder.source(Path(params.name), skip=params.on_error == "skip", background=params.background)
    if catalog.knows(params.name):
        return catalog.source(params.name, params.data_dir, background=params.background)
    raise InputError(
        f"dataset.name is {params.name!r}: neither mnist5k, nor a folder, nor a TFDS set "
        "(https://www.tensorflow.org/datasets/catalog/overview)"
    )


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
            raise InputError(f"dataset.name is {params.name!r}, whose {len(drawn)} images leave none for {name}")
    return divided


def _report(source: str, found: dict[str, list[Entry]], kept: dict[str, list[Entry]]) -> None:
    """Print how many images each split of `source` has, and which are copies or left out."""
    for name, entries in found.items():
        first = {}
        copies = [entry.where for entry in entries if first.setdefault(entry.digest, entry) is not entry]
        leaks = [entry.where for entry in sorted(set(entries) - set(kept[name]))]
        title = source if len(found) == 1 else f"{source}, {name}"
        print(f"{title}: {len(entries)} images, {_counted(copies, 'copies of others')}", file=sys.stderr)
        if leaks:
            print(f"{title}: left out {_counted(leaks, 'that a later split has too')}", file=sys.stderr)


def _counted(places: list, kind: str) -> str:
    return f"{len(places)} {kind}" + (f": {listed(places)}" if places else "")
