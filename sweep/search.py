"""A search for the best points by Optuna, on the engine of sweeps."""

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from dvc.utils.hydra import to_hydra_overrides
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from bitlite.report.picture import COLOURS, GRID
from bitlite.workflow.errors import InputError, one_line, tell
from bitlite.workflow.paths import METRICS, PLOTS
from sweep.engine import LOGS, Project, Resources, engine, told
from sweep.points import Point, check, group

# What can be searched for: the folder of metrics/ and the key that say it of a variant, and which way is better.
# Choices are made by validation, as everywhere; the test split is for the end. speedup is against the baseline, timed
# in turns on the same machine: comparable though unlike hosts timed the points.
OBJECTIVES = {
    "accuracy": ("evaluate", "validation_accuracy", "maximize"),
    "size_bytes": ("evaluate", "size_bytes", "minimize"),
    "gzip_bytes": ("evaluate", "gzip_bytes", "minimize"),
    "latency_ms_p50": ("benchmark", "latency_ms_p50", "minimize"),
    "peak_memory_mb": ("benchmark", "peak_memory_mb", "minimize"),
    "speedup": ("benchmark", "speedup", "maximize"),
}
SEARCHES = PLOTS / "search"
# Digits of a number out of an interval: of its width, or of the number itself where steps are by a factor.
DIGITS = 3


@dataclass(frozen=True)
class Space:
    """What a search may choose: `fixed` overrides, and the values of others by their keys."""

    fixed: tuple[str, ...]
    free: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, sweeps: Sequence[str]) -> "Space":
        """The space of `-S` options, as Hydra spells a,b, range(A,B,STEP), interval(A,B) and tag(log, interval(A,B)).

        Raises InputError if one can't be read, or if there is nothing to choose.
        """
        try:
            parsed = to_hydra_overrides(list(sweeps))
            free = {each.get_key_element(): _distribution(each) for each in parsed if each.is_sweep_override()}
        except Exception as error:  # of Hydra's parser and of Optuna, of many types
            raise InputError(f"-S {' -S '.join(sweeps)} can't be read: {one_line(error)}") from error
        if not free:
            raise InputError("--search needs something to choose: -S 'KEY=interval(0.2,0.8)', or -S KEY=a,b")
        fixed = tuple(each.input_line for each in parsed if not each.is_sweep_override())
        return cls(fixed, free)

    def overrides(self, chosen: Mapping[str, object]) -> tuple[str, ...]:
        """The `-S` options of a point, by what was chosen for each free key."""
        return (*self.fixed, *(f"{key}={self.text(key, chosen[key])}" for key in self.free))

    def text(self, key: str, value: object) -> str:
        """A chosen value as an override has it, with few digits: it is to be read."""
        kind = self.free[key]
        if not isinstance(kind, FloatDistribution) or not isinstance(value, float):
            return str(value)
        if kind.log:
            rounded = float(f"{value:.{DIGITS}g}")
        else:
            rounded = round(value, DIGITS - 1 - math.floor(math.log10(kind.step or kind.high - kind.low)))
        return f"{min(max(rounded, kind.low), kind.high):.12g}"

    def varied(self) -> list[str]:
        """An override of each free key."""
        return [f"{key}=0" for key in self.free]


def _distribution(override: Override) -> BaseDistribution:
    match override.value():
        case IntervalSweep(start=float() | int() as low, end=float() | int() as high, tags=tags):
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log="log" in tags)
            return FloatDistribution(low, high, log="log" in tags)
        case RangeSweep(step=step) as steps if len(values := sorted(steps.range())) > 1:
            if all(isinstance(each, int) for each in values):
                return IntDistribution(values[0], values[-1], step=abs(int(step)))
            return FloatDistribution(values[0], values[-1], step=abs(step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def search(project: Project, sweeps: Sequence[str], count: int, asked: str, variant: str, resources: Resources) -> int:
    """Try at most `count` points of the space that `sweeps` span, each where earlier ones make it promising.

    What is `asked` for is read of a variant, or if that is '' of the one that `compare` selects. Started again with
    equal arguments it goes on with what is missing. Writes all points and a picture of them below plots/search, and
    prints the Pareto front. The number of points that failed.
    """
    objectives = (asked or "accuracy,size_bytes").split(",")
    if unknown := [each for each in objectives if each not in OBJECTIVES]:
        raise InputError(f"--objective has {', '.join(unknown)}; there are {', '.join(OBJECTIVES)}")
    if variant and not (METRICS / "evaluate" / f"{variant}.json").exists():
        raise InputError(f"--variant is {variant}, of which there is no metrics/evaluate/{variant}.json")
    space = Space.of(sweeps)
    name = hashlib.sha256(repr((project.revision, sorted(sweeps), objectives, variant)).encode()).hexdigest()[:10]
    study = _study(name, objectives)
    left = count - len(study.get_trials(states=[TrialState.COMPLETE]))
    tell(f"search {name}: points: {count}, of which {min(count, count - left)} are done")
    wanted = Wanted(project, objectives, variant)
    failed = _run(study, space, wanted, left, resources) if left > 0 else 0
    _show(study, space, project.revision, objectives, name)
    return failed


@dataclass(frozen=True)
class Wanted:
    """What a search reads of a point's metrics."""

    project: Project
    objectives: Sequence[str]
    variant: str

    def values(self, point: Point) -> list[float]:
        """The objectives of a point, in order."""
        variant = self.variant or self.project.metrics(point, "summary")[0]["selected"]
        folders = ("evaluate", "benchmark")
        found = dict(zip(folders, self.project.metrics(point, *(f"{each}/{variant}" for each in folders)), strict=True))
        timing = found["benchmark"]
        timing["speedup"] = timing["baseline_ms_p50"] / timing["latency_ms_p50"]
        return [found[folder][key] for folder, key, _ in (OBJECTIVES[each] for each in self.objectives)]


def _run(study: optuna.Study, space: Space, wanted: Wanted, left: int, resources: Resources) -> int:
    project = wanted.project
    finished, failed = project.finished(), 0
    trials: dict[Point, optuna.Trial] = {}

    def asked(most: int) -> Iterator[Point]:
        """Points that are to run, while fewer than `most` do and some are left."""
        nonlocal left
        while left and len(trials) < most:
            left -= 1
            trial = study.ask(dict(space.free))
            point = Point.of(space.overrides(trial.params), project.revision)
            if point.name in finished:
                study.tell(trial, wanted.values(point))
            elif point in trials:  # it is chosen twice at once
                study.tell(trial, state=TrialState.FAIL)
            else:
                check(point)
                trials[point] = trial
                yield point

    done = len(study.get_trials(states=[TrialState.COMPLETE]))
    with engine(project, resources) as on:
        if first := list(asked(on.slots())):
            on.start_group(group(first, space.fixed, space.varied()))
        for number, (point, outcome) in enumerate(on.outcomes(), done + 1):
            told(f"{number} {point}", point.name, outcome)
            trial = trials.pop(point)
            if outcome.failed:
                failed += 1
                study.tell(trial, state=TrialState.FAIL)
            else:
                finished.add(point.name)
                study.tell(trial, wanted.values(point))
            for more in asked(on.slots()):
                on.start(more)
    return failed


def _study(name: str, objectives: Iterable[str]) -> optuna.Study:
    """The search of this name, as far as it has come; points that were running when it ended come first."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    LOGS.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(LOGS / f"search-{name}.journal"))),
        study_name=name,
        directions=[StudyDirection[OBJECTIVES[each][2].upper()] for each in objectives],
        load_if_exists=True,
    )
    # A seed of its own each time that it goes on: else it would draw again what it drew at first.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), constant_liar=True)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _show(study: optuna.Study, space: Space, revision: str, objectives: list[str], name: str) -> None:
    """Write and print what was found: all points, those of the Pareto front marked."""
    done = {
        Point.of(space.overrides(trial.params), revision): trial
        for trial in study.get_trials(states=[TrialState.COMPLETE])
    }
    if not done:
        return
    best = {tuple(trial.values) for trial in study.best_trials}
    front = {point: trial for point, trial in done.items() if tuple(trial.values) in best}
    SEARCHES.mkdir(parents=True, exist_ok=True)
    with (SEARCHES / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["experiment", "front", *(OBJECTIVES[each][1] for each in objectives), *space.free])
        for point, trial in done.items():
            chosen = [space.text(key, trial.params[key]) for key in space.free]
            rows.writerow([point.name, point in front, *trial.values, *chosen])
    print(f"The Pareto front of {len(done)} points: no other is as good in all and better in one.")
    for point, trial in sorted(front.items(), key=lambda each: each[1].values):
        values = "  ".join(f"{key} {value:.5g}" for key, value in zip(objectives, trial.values, strict=True))
        print(f"  {values}  {point}")
    written = [f"{SEARCHES / name}.csv"]
    if len(objectives) > 1:
        written.append(f"{SEARCHES / name}.png")
        beaten = [trial.values for point, trial in done.items() if point not in front]
        _draw(beaten, [trial.values for trial in front.values()], objectives).savefig(
            written[-1], metadata={"Software": None}
        )
    print(f"All of them: {', '.join(written)}")


def _draw(beaten: Sequence[Sequence[float]], front: Sequence[Sequence[float]], objectives: Sequence[str]) -> Figure:
    """The first objective against the second, with the points of the front filled."""
    figure = Figure(figsize=(7, 5), dpi=160, layout="constrained")
    axes = figure.subplots()
    for values, filling, label in ((beaten, "none", "others"), (front, COLOURS[0], "Pareto front")):
        ys, xs = [each[0] for each in values], [each[1] for each in values]
        axes.scatter(xs, ys, s=40, edgecolor=COLOURS[0], facecolor=filling, label=label)
    along = sorted((values[1], values[0]) for values in front)
    axes.plot([x for x, _ in along], [y for _, y in along], color=GRID, zorder=0)
    ylabel, xlabel = (
        f"{key}, {'more' if better == 'maximize' else 'less'} is better"
        for _, key, better in (OBJECTIVES[each] for each in objectives[:2])
    )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure
