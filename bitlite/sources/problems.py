"""What is wrong with a folder, collected by kind and told all at once."""

from collections.abc import Iterable
from pathlib import Path

from bitlite.workflow.errors import InputError, listed, tell


class Problems:
    """Kinds of problems, each with the paths or names that have it. What is added twice counts once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The items of each kind, as the keys of a dict: a set that keeps their order.
        self._avoidable: dict[str, dict] = {}
        self._fatal: dict[str, dict] = {}
        self._remarks: dict[str, dict] = {}

    def add(self, kind: str, items: Iterable) -> None:
        """Of this `kind` are `items`, which can be left out."""
        _add(self._avoidable, kind, items)

    def refuse(self, kind: str, items: Iterable) -> None:
        """With `items` of this `kind` the folder can't be used."""
        _add(self._fatal, kind, items)

    def remark(self, kind: str, items: Iterable) -> None:
        """Of this `kind` are `items`, which is no problem, but worth a word."""
        _add(self._remarks, kind, items)

    def settle(self, *, skip: bool, hint: str = "") -> None:
        """Print the remarks to stderr, and with `skip` what is left out.

        hint: what to do, or what else is wrong, told behind the list; the folder can't be used with one.

        Raises InputError that lists all problems if one is fatal, or if there is any and not `skip`.
        """
        for remark in _told(self._remarks):
            tell(f"{self._folder}: {remark}")
        avoidable, fatal = _told(self._avoidable), _told(self._fatal) + ([hint] if hint else [])
        if fatal or (avoidable and not skip):
            remedy = "" if fatal else "; mend this, or leave it out by dataset.on_error: skip"
            raise InputError(f"dataset.name is {str(self._folder)!r}: {'; '.join(avoidable + fatal)}{remedy}")
        for problem in avoidable:
            tell(f"{self._folder}: left out {problem}")


def _add(kinds: dict[str, dict], kind: str, items: Iterable) -> None:
    if items := dict.fromkeys(items):
        kinds.setdefault(kind, {}).update(items)


def _told(kinds: dict[str, dict]) -> list[str]:
    return [f"{kind} ({len(items)}): {listed(items)}" for kind, items in kinds.items()]
