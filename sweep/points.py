"""The points of a sweep, and what they have in common."""

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps, to_hydra_overrides

from bitlite.workflow.errors import InputError, one_line

PARAMS = "params.yaml"
# What everything after it is made from. Points that change it, or what it is made from, have little in common.
TRAINING = "finetune"


@dataclass(frozen=True)
class Point:
    """An experiment on a revision: its name, which tells it from all others of that revision, and its `-S` options."""

    name: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Iterable[str], revision: str) -> "Point":
        """The point with these overrides; their order counts for nothing."""
        ordered = tuple(sorted(overrides))
        return cls(f"sweep-{hashlib.sha256(repr((revision, ordered)).encode()).hexdigest()[:10]}", ordered)

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.overrides)}".rstrip()


@dataclass(frozen=True)
class Group:
    """Points, the overrides that all of them have, and the `stages` that these alone decide; () if not worth a task."""

    points: tuple[Point, ...]
    overrides: tuple[str, ...]
    stages: tuple[str, ...]


def grid(sweeps: Sequence[str], revision: str) -> list[Point]:
    """All points of `-S` options as `dvc exp run --queue` takes them, `key=a,b` for each of several values."""
    try:
        found = get_hydra_sweeps({PARAMS: list(sweeps)})
    except Exception as error:  # of Hydra's parser, of many types
        raise InputError(
            f"-S {' -S '.join(sweeps)} can't be read: {one_line(error)} (interval and tag are for --search)"
        ) from error
    points = [Point.of(each[PARAMS], revision) for each in found]
    points = list({point.name: point for point in points}.values())
    for point in points:
        check(point)
    return points


def check(point: Point) -> None:
    """Raise InputError if params.yaml has no such keys; what their values may be its stages know."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(PARAMS, folder)
        try:
            apply_overrides(copy, list(point.overrides))
        except Exception as error:  # of Hydra and OmegaConf, of many types
            raise InputError(f"-S {' -S '.join(point.overrides)}: {one_line(error.__cause__ or error)}") from error


def groups(points: Sequence[Point]) -> list[Group]:
    """`points` by what they ask of fine-tuning, each group with what its points have in common."""
    stages = _Stages()
    alike = defaultdict(list)
    for point in points:
        alike[frozenset(each for each in point.overrides if TRAINING in stages.changed([each]))].append(point)
    found = []
    for each in alike.values():
        same = frozenset.intersection(*(frozenset(point.overrides) for point in each))
        varied = {override for point in each for override in point.overrides} - same
        common = stages.common(same, varied) if len(each) > 1 else ()
        found.append(Group(tuple(each), tuple(sorted(same)), common))
    return found


def group(points: Sequence[Point], same: Sequence[str], varied: Iterable[str]) -> Group:
    """The first points of a search: all have the overrides `same`, and differ by the keys of those in `varied`."""
    return Group(tuple(points), tuple(same), _Stages().common(same, varied))


class _Stages:
    """The stages of this project's dvc.yaml, and what changes them."""

    def __init__(self) -> None:
        try:
            with Repo() as repo:
                graph = repo.index.graph
                self._stages = {stage.addressing: stage for stage in graph}
                # In DVC's graph a stage leads to what it depends on.
                self._above = {
                    stage.addressing: {each.addressing for each in graph.successors(stage)} for stage in graph
                }
        except DvcException as error:
            raise InputError(f"dvc.yaml can't be read: {one_line(error)}") from error

    def common(self, same: Iterable[str], varied: Iterable[str]) -> tuple[str, ...]:
        """The stages that `varied` overrides leave alone, whatever the host; none if all they do is to check.

        Nor those that overrides in `same` take out of dvc.yaml: it stands here without them.
        """
        of_a_host = self._below({name for name, stage in self._stages.items() if stage.always_changed})
        found = set(self._stages) - self.changed([*varied, *filter(_takes_out, same)]) - of_a_host
        return tuple(sorted(found)) if any(self._keys(name) for name in found) else ()

    def changed(self, overrides: Iterable[str]) -> set[str]:
        """The stages that do something else because of `overrides`.

        Those that take params.yaml as a file check it, and give the same whatever it says.
        """
        keys = {_key(each) for each in overrides}
        return self._below(
            {name for name in self._stages if any(_related(key, its) for key in keys for its in self._keys(name))}
        )

    def _keys(self, name: str) -> set[str]:
        return {key for each in self._stages[name].params for key in (each.params or [""])}

    def _below(self, names: set[str]) -> set[str]:
        """`names` and all stages that depend on them."""
        while more := {name for name, above in self._above.items() if name not in names and above & names}:
            names = names | more
        return names


def _key(override: str) -> str:
    return to_hydra_overrides([override])[0].key_or_group


def _takes_out(override: str) -> bool:
    """Whether an override may leave keys out that params.yaml has."""
    parsed = to_hydra_overrides([override])[0]
    return parsed.is_delete() or isinstance(parsed.value(), dict)


def _related(key: str, other: str) -> bool:
    """Whether one of two keys lies below the other, or is it; all lie below ''."""
    return not other or f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
