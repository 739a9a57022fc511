"""Where data sets that TFDS prepares are found: in its catalog, downloaded if need be, or in a directory."""

import os
import re
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import requests
import tensorflow_datasets as tfds

from bitlite.workflow.errors import InputError, listed, one_line, printable

# By this file one knows the directory of a prepared set.
INFO = "dataset_info.json"
# Asked for an answer before a set is downloaded that names no address.
TFDS_SITE = "https://storage.googleapis.com/tfds-data"
# For its answer. TFDS itself would try again for minutes.
TIMEOUT_S = 10
PREPARED_COPY = "give the TFDS directory that holds a prepared copy as dataset.data_dir"


def builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder | None:
    """The set of this `name` that TFDS knows or `data_dir` holds, if there is one.

    data_dir: the TFDS directory that holds it or will; None for TFDS's own.

    Raises InputError if TFDS knows the set, or it has a folder there, but can't load it so.
    """
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # that there is none, or whatever damaged files make it stumble over
        # The name may go on with a configuration or a version.
        own = re.split("[/:]", name)[0]
        known = own in tfds.list_builders(with_community_datasets=False)
        here = data_dir and os.path.isdir(os.path.join(data_dir, own))
        if not known and not here and isinstance(error, AssertionError | ImportError | ValueError):
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


def download(name: str, builder: tfds.core.DatasetBuilder) -> None:
    """Have TFDS prepare a set. Raises InputError if it can't, soon where it can't be reached."""
    address = next(iter(builder.url_infos), TFDS_SITE)
    # Sets whose files the user must put in place by hand are not downloaded from their address.
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not answers(address):
        raise InputError(
            f"dataset.name is {name!r}, which is not prepared in {builder.data_dir}, and {address} can't be reached to "
            f"download it; {PREPARED_COPY}"
        )
    print(printable(f"TFDS downloads and prepares {name} in {builder.data_dir}"), flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:  # each set has code of its own, which raises anything
        raise InputError(
            f"dataset.name is {name!r}, which TFDS can't prepare: {one_line(error)}; {PREPARED_COPY}"
        ) from error


def answers(address: str) -> bool:
    """Whether anything at all comes back from `address` in time."""
    answers = SimpleQueue[bool]()

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
