"""Local copies of files and TF Hub modules at an address. A file arrives whole or not at all."""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from bitlite.workflow.errors import InputError, one_line
from bitlite.workflow.paths import project

# In the project. Files of gigabytes are kept: DVC runs a stage again when its code changes, after a wrong parameter, in
# experiments.
DOWNLOADS = "data/downloads"
# Seconds that a server may be silent.
TIMEOUT_S = 10
# Fruitless retries of a connection that broke, the first after WAIT_S seconds, each further one after twice as many.
RETRIES = 3
WAIT_S = 1
# Bytes that are written at once: a connection that breaks loses fewer.
CHUNK = 2**16


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """The local copy of the file at `address`, from the downloads or else from the network.

    A block that raises ValueError has found the copy to be of no use: it is removed. When a connection breaks for good
    or the process dies, the bytes that have arrived stay beside it as NAME.part, and the next call continues them.

    Raises InputError naming the address if the file can't be fetched or does not have the server's digest.
    """
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    # The end of a long name, which tells what the file is: file systems take 255 bytes, and .part comes behind.
    path = project() / DOWNLOADS / f"{digest}-{Path(urlsplit(address).path).name[-50:]}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        with _alone(path.parent):
            if not path.exists():  # another experiment may have fetched it meanwhile
                _download(address, partial)
                _tag(partial).unlink(missing_ok=True)
                os.replace(partial, path)
    with _removed_if_useless(path):
        yield path


@contextmanager
def resolved(handle: str) -> Iterator[Path]:
    """The directory of a TF Hub or Kaggle module, which TF Hub keeps in TFHUB_CACHE_DIR.

    A block that raises ValueError has found the module to be of no use: it is removed. Raises InputError naming the
    handle if it can't be fetched.
    """
    import tensorflow as tf  # which files do not need
    import tensorflow_hub as hub

    # TF Hub opens its connections without a timeout of its own.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        path = Path(hub.resolve(handle))
    except (OSError, ValueError, HTTPException, tf.errors.OpError) as error:
        raise _unreachable(handle, error) from error
    finally:
        socket.setdefaulttimeout(before)
    with _removed_if_useless(path):
        yield path


@contextmanager
def _removed_if_useless(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: queued experiments run beside each other."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unreachable(address: str, error: BaseException) -> InputError:
    return InputError(
        f"{address} can't be fetched ({one_line(error)}); try again, or download it elsewhere and give its path as "
        "backbone.source"
    )


def _cause(error: BaseException) -> BaseException:
    # requests wraps the error that happened several times over, with texts of several lines.
    return _cause(error.__context__) if error.__context__ else error


def _download(address: str, partial: Path) -> None:
    # No retry before anything has arrived: no network and wrong addresses are told at once.
    fruitless = RETRIES
    while True:
        before = _size(partial)
        try:
            md5 = _transfer(address, partial)
            break
        except requests.RequestException as error:
            fruitless = 0 if _size(partial) > before else fruitless + 1
            if fruitless > RETRIES:
                raise _unreachable(address, _cause(error)) from error
            time.sleep(WAIT_S * 2**fruitless)
    if md5 and md5 != _md5(partial):
        partial.unlink()
        raise InputError(f"{address} arrived damaged: its MD5 digest is not the {md5} that the server names; try again")


def _transfer(address: str, partial: Path) -> str | None:
    """One request for the bytes that `partial` lacks, or for all if the server can't continue or its file has changed.

    Returns the base64 MD5 digest of the whole file that Google Cloud Storage sends, if it does.
    """
    # Length, digest and ranges count the bytes of the file itself, not of a compressed transfer.
    headers = {"Accept-Encoding": "identity"}
    done = _size(partial) if _tag(partial).exists() else 0
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": _tag(partial).read_text()}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if done and response.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()
            return _transfer(address, partial)
        response.raise_for_status()
        continued = response.status_code == requests.codes.partial_content
        with partial.open("ab" if continued else "wb") as file:
            if not continued:
                # Only once the old bytes are gone, or they might be taken for the beginning of the new file.
                done = 0
                _note_tag(partial, response.headers)
            _copy(response, file, done)
        md5 = re.search(r"md5=([^, ]+)", response.headers.get("X-Goog-Hash", ""))
        return md5 and md5[1]


def _copy(response: requests.Response, file, done: int) -> None:
    length = response.headers.get("Content-Length")  # which requests itself holds the server to
    total = done + int(length) if length else None
    name = Path(urlsplit(response.url).path).name
    with tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, disable=None) as progress:
        for chunk in response.iter_content(CHUNK):
            progress.update(file.write(chunk))


def _tag(partial: Path) -> Path:
    """Where the ETag of a partial file lies: without one it can't be continued."""
    return partial.with_suffix(".etag")


def _note_tag(partial: Path, headers) -> None:
    tag = headers.get("ETag", "")
    # A weak tag (W/"...") does not promise equal bytes, and those of an encoded transfer are not the file's.
    if tag.startswith('"') and "Content-Encoding" not in headers:
        _tag(partial).write_text(tag)
    else:
        _tag(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
