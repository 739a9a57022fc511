"""Prepared TFDS sets that lie in a bucket, as far as TensorFlow reads it, are copied here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from bitlite.sources.catalog import INFO, answers
from bitlite.workflow.errors import InputError, listed, one_line
from bitlite.workflow.files import whole

# Asked for an answer before TensorFlow is, which tries again for minutes.
GOOGLE = "https://storage.googleapis.com"
# What copies a directory out of a bucket by hand, by the scheme of its address.
COPY = {"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive"}


def address(name: str, data_dir: str | None) -> str | None:
    """Where the set lies, if that is in a bucket: its own address, or that of the TFDS directory which holds it."""
    if "://" in name:
        return name.rstrip("/")
    if data_dir and "://" in data_dir:
        return f"{data_dir.rstrip('/')}/{name.replace(':', '/')}"
    return None


def copy(address: str, folder: Path) -> Path:
    """Copy the prepared set at `address`, or the one version there, into a folder of `folder`, and return that.

    Files that are there already in their full length are not copied again. Raises InputError if the set can't be read.
    """
    if address.startswith("gs://") and not answers(GOOGLE):
        raise _unread(address, f"{GOOGLE} can't be reached")
    import tensorflow as tf  # it alone knows buckets

    with _told(address):
        below = tf.io.gfile.listdir(address) if tf.io.gfile.isdir(address) else []
        places = [f"{address}/{name.rstrip('/')}" for name in sorted(below)]
        found = [place for place in (address, *places) if tf.io.gfile.exists(f"{place}/{INFO}")]
        if len(found) > 1:
            raise InputError(f"{address} holds several sets; name one: {listed(found)}")
        if not found:
            raise _unread(address, "there is no set that TFDS prepared")
        (place,) = found
        folder /= place.rpartition("/")[2]  # its version: TFDS looks for it there
        folder.mkdir(parents=True, exist_ok=True)
        for name in tqdm(sorted(tf.io.gfile.listdir(place)), f"copy {place}", disable=None):
            there, here = f"{place}/{name}", folder / name
            if tf.io.gfile.isdir(there) or (here.exists() and here.stat().st_size == tf.io.gfile.stat(there).length):
                continue
            with whole(here) as temporary:
                tf.io.gfile.copy(there, os.fspath(temporary))
    return folder


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # TensorFlow has errors of its own for each file system
        raise _unread(address, one_line(error)) from error


def _unread(address: str, why: str) -> InputError:
    command = COPY.get(address.partition("://")[0])
    by = f" by `{command}`" if command else ""
    return InputError(
        f"dataset.name or dataset.data_dir leads to {address}, which can't be read: {why}; copy the set to this "
        f"machine{by}, and name that directory"
    )
