"""Errors that are for the user, and their texts."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Items of a list that an error names.
LISTED = 10
# Characters of a text that is not ours: libraries quote what they could not read.
LONGEST = 1000


class InputError(ValueError):
    """A parameter or file of the user's can't be used. The message names it, the problem and the remedy."""


class WrongValue(InputError):
    """A value of params.yaml can't be. The message starts with its key, which `under` completes."""


@contextmanager
def under(key: str) -> Iterator[None]:
    """The keys of WrongValues that the block raises lie under `key` of params.yaml, if there is one."""
    try:
        yield
    except WrongValue as error:
        raise WrongValue(f"{key}.{error}" if key else str(error)) from error


def missing(path: Path) -> InputError:
    """The error that a file which a stage writes is not there."""
    return InputError(f"{path} is missing: run `dvc repro`")


def damaged(path: Path, how: str) -> InputError:
    """The error that a file which a stage wrote is not as it was."""
    return InputError(f"{path} {how}: delete it and run `dvc repro`")


def one_line(error: object) -> str:
    """The text of an error on one line, of a long one its beginning; the name of its type if it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def printable(text: str) -> str:
    """`text` as a console may show it: what can't be printed, such as its control characters, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(line: str) -> None:
    """Print a line for whoever watches to standard error, as a console may show it."""
    print(printable(line), file=sys.stderr)


def listed(items: Iterable) -> str:
    """The first LISTED items in one line, and how many more there are. What can't be printed is escaped."""
    items = list(items)
    names = [printable(str(item)) for item in items[:LISTED]]
    more = [f"and {len(items) - LISTED} more"] if len(items) > LISTED else []
    return ", ".join(names + more)
