"""Errors that are for the user, and their texts."""

from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave can't be used. The message says which key or file, what happened and what to do."""


def one_line(error: object) -> str:
    """The text of an error on one line; the name of its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def listed(items: Iterable, most: int = 10) -> str:
    """The first items in one line, and how many more there are."""
    names = [str(item) for item in items]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)
