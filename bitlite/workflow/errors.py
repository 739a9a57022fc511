"""Errors that are for the user, and their texts."""

from collections.abc import Iterable


class InputError(ValueError):
    """A parameter or file of the user's can't be used. The message names it, the problem and the remedy."""


def one_line(error: object) -> str:
    """The text of an error on one line; the name of its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def listed(items: Iterable, most: int = 10) -> str:
    """The first items in one line, and how many more there are."""
    names = [str(item) for item in items]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)
