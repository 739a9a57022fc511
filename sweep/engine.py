"""Runs the points of a sweep on Ray: on the cluster that RAY_ADDRESS or `ray start` names, or on this machine."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from bitlite.workflow.errors import InputError, one_line, tell
from sweep import task
from sweep.points import Group, Point, groups
from sweep.task import Job, Outcome

LOGS = Path(".dvc/tmp/sweep")
# Seconds to wait for a first host.
PATIENCE = 60
# Lines of a log that are shown of what failed.
SHOWN = 6


@dataclass(frozen=True)
class Project:
    """What hosts clone: a `revision` of the repository at `git`, with data in the DVC remote `remote`."""

    git: str
    revision: str
    remote: str
    author: tuple[tuple[str, str], ...]

    @classmethod
    def committed(cls, git: str, remote: str) -> "Project":
        """The last commit here. `git` names a Git remote, or is its address; `remote` a DVC remote, '' the default one.

        Raises InputError if hosts could not get it: changes are not committed, or the commit is not on the remote.
        """
        if changes := _git("status", "--porcelain", "--untracked-files=no").splitlines():
            raise InputError(
                f"a sweep runs what is committed, and {changes[0][3:]} differs from it ({len(changes)} in all): "
                "commit, or set changes aside by git stash"
            )
        revision = _git("rev-parse", "HEAD")
        address = git
        if git in _git("remote").splitlines():
            address = _git("remote", "get-url", git)
        if Path(address).exists():
            address = str(Path(address).resolve())
        tips = {line.split()[0] for line in _git("ls-remote", "--heads", address).splitlines()}
        if not any(_holds(tip, revision) for tip in tips):
            raise InputError(
                f"{git} has no branch known here that holds the last commit, {revision[:7]}: git push {git} HEAD; "
                f"if others have pushed since, git fetch {git} first"
            )
        remote = remote or _dvc_config("core.remote")
        if not remote:
            raise InputError("there is no DVC remote: dvc remote add -d NAME ADDRESS, and commit .dvc/config")
        place = _dvc_config(f"remote.{remote}.url")
        if not place:
            raise InputError(f"there is no DVC remote {remote} in .dvc/config: dvc remote add {remote} ADDRESS")
        # `place` is whole in any case.
        if "://" not in place and place not in Path(".dvc/config").read_text():
            raise InputError(
                f"the DVC remote {remote} is a path from .dvc on; DVC finds it in clones by its whole path alone"
            )
        who = {"NAME": _git("config", "--default", "sweep", "user.name")}
        who["EMAIL"] = _git("config", "--default", "sweep@localhost", "user.email")
        author = tuple((f"GIT_{role}_{key}", who[key]) for role in ("AUTHOR", "COMMITTER") for key in who)
        return cls(address, revision, remote, author)

    def finished(self) -> set[str]:
        """Names of the experiments on this revision that the Git remote has."""
        pattern = f"refs/exps/{self.revision[:2]}/{self.revision[2:]}/*"
        return {line.rpartition("/")[2] for line in _git("ls-remote", self.git, pattern).splitlines()}

    def metrics(self, point: Point, *names: str) -> list[dict]:
        """The content of some files of metrics/, by their names, of an experiment that the Git remote has."""
        ref = f"refs/exps/{self.revision[:2]}/{self.revision[2:]}/{point.name}"
        commit = _git("ls-remote", self.git, ref).split()[0]
        _git("fetch", "--quiet", self.git, ref)
        return [json.loads(_git("show", f"{commit}:metrics/{name}.json")) for name in names]


def _dvc_config(key: str) -> str:
    """A value of .dvc/config, which is committed, a path as a whole one; '' if it is not there."""
    command = [sys.executable, "-m", "dvc", "config", "--project", key]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _holds(tip: str, revision: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", revision, tip]
    return subprocess.run(command, capture_output=True).returncode == 0


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {one_line(done.stderr)}")
    return done.stdout.rstrip()


@dataclass(frozen=True)
class Resources:
    """What a point takes of its host, and how often one is tried anew whose host is lost.

    cpus: 0 is all that the smallest host has: of equal hosts each runs one point at a time. memory_gb: 10^9 bytes.
    scratch: the folder of clones and cache on hosts' own disks; '' is that of temporary files.
    """

    cpus: float = 0
    gpus: float = 0
    memory_gb: float = 0
    retries: int = 3
    scratch: str = ""


class Engine:
    """Runs points of a project as tasks of Ray. Made by `engine`."""

    def __init__(self, project: Project, resources: Resources, cpus: float) -> None:
        self._project, self._resources, self._cpus = project, resources, cpus
        self._run = ray.remote(task.run).options(
            num_cpus=cpus,
            num_gpus=resources.gpus,
            memory=resources.memory_gb * 10**9,
            max_retries=resources.retries,
            scheduling_strategy="SPREAD",
        )
        self._points: dict[ray.ObjectRef, Point] = {}
        # What groups have in common, and the points that wait for it.
        self._common: dict[ray.ObjectRef, tuple[Point, ...]] = {}
        self._idle = ray.available_resources().get("CPU", 0)

    def slots(self) -> int:
        """How many points the hosts that are there now run at once."""
        asked = {"CPU": self._cpus, "GPU": self._resources.gpus, "memory": self._resources.memory_gb * 10**9}
        return sum(_fits(host, asked) for host in _hosts())

    def start(self, point: Point) -> None:
        self._points[self._run.remote(self._job(point.overrides, name=point.name))] = point

    def start_group(self, group: Group) -> None:
        """Start the points of a group, once what they have in common is done: it can only save them time."""
        if not group.stages:
            for point in group.points:
                self.start(point)
            return
        tell(f"{len(group.stages)} stages are common to points, and run once, before them")
        self._common[self._run.remote(self._job(group.overrides, stages=group.stages))] = group.points

    def outcomes(self) -> Iterator[tuple[Point, Outcome]]:
        """Each started point when it is over; more may be started meanwhile."""
        while running := [*self._points, *self._common]:
            (ref,), _ = ray.wait(running, num_returns=1)
            outcome = _outcome(ref)
            if ref in self._points:
                yield self._points.pop(ref), outcome
                continue
            if outcome.failed:
                told("what points have in common", "common", outcome)
            for point in self._common.pop(ref):
                self.start(point)

    def cancel(self) -> None:
        """Interrupt what runs, and wait until it has cleaned up."""
        running = [*self._points, *self._common]
        if running:
            tell("stopping what runs; the same command goes on with what is missing")
        for ref in running:
            ray.cancel(ref)
        # A task counts as cancelled before it has ended; its processors are idle when it has.
        end = time.monotonic() + 2 * task.CLEAN_UP
        while running and ray.available_resources().get("CPU", 0) < self._idle and time.monotonic() < end:
            time.sleep(0.2)

    def _job(self, overrides: tuple[str, ...], name: str = "", stages: tuple[str, ...] = ()) -> Job:
        project = self._project
        where = project.git, project.revision, project.remote
        return Job(*where, overrides, name, stages, self._resources.scratch, project.author)


def _outcome(ref: ray.ObjectRef) -> Outcome:
    try:
        return ray.get(ref)
    except RayTaskError as error:  # in the task's own code
        return Outcome("its host", 0, "", one_line(error.cause))
    except RayError as error:
        return Outcome("a host that was lost", 0, "", one_line(error))


@contextmanager
def engine(project: Project, resources: Resources) -> Iterator[Engine]:
    """An engine as long as the block lasts; what still runs when it is left, as by Ctrl-C, is interrupted.

    Raises InputError if no host has what a point takes.
    """
    ray.cloudpickle.register_pickle_by_value(task)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    ray.init(log_to_driver=False, configure_logging=True, logging_level=logging.ERROR, include_dashboard=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Slurm and Kubernetes end it
    try:
        end = time.monotonic() + PATIENCE
        while not (hosts := _hosts()) and time.monotonic() < end:
            time.sleep(1)
        if not hosts:
            raise InputError(f"no host that runs tasks has joined the cluster within {PATIENCE} seconds")
        cpus = resources.cpus or min(host["CPU"] for host in hosts)
        made = Engine(project, resources, cpus)
        asked = {"CPUs": cpus, "GPUs": resources.gpus, "GB of memory": resources.memory_gb}
        about = ", ".join(f"{amount:g} {what}" for what, amount in asked.items() if amount)
        if not (slots := made.slots()):
            most = ", ".join(f"{max(host.get(name, 0) for host in hosts):g} {name}" for name in ("CPU", "GPU"))
            raise InputError(f"a point takes {about}, which no host has; they have at most {most}")
        tell(f"hosts: {len(hosts)}; points at once: {slots}; each takes {about}")
        if slots > len(hosts):
            tell("points that share a host disturb each other's timings: --cpus says how many processors each takes")
        try:
            yield made
        finally:
            made.cancel()
    finally:
        ray.shutdown()


def _hosts() -> list[dict[str, float]]:
    """The resources of each host that runs tasks."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _fits(host: dict[str, float], asked: dict[str, float]) -> int:
    return int(min(host.get(name, 0) // amount for name, amount in asked.items() if amount))


def sweep(project: Project, points: Sequence[Point], resources: Resources) -> int:
    """Run all points, telling of each as it ends. The number of those that failed."""
    failed = 0
    with engine(project, resources) as on:
        for group in groups(points):
            on.start_group(group)
        for number, (point, outcome) in enumerate(on.outcomes(), 1):
            failed += bool(outcome.failed)
            told(f"{number}/{len(points)} {point}", point.name, outcome)
    return failed


def told(what: str, name: str, outcome: Outcome) -> None:
    """Tell of a task that is over, and keep its log under this name."""
    log = LOGS / f"{name}.log"
    if outcome.log:
        LOGS.mkdir(parents=True, exist_ok=True)
        log.write_text(outcome.log)
    if not outcome.failed:
        tell(f"{what}: done on {outcome.host} in {outcome.seconds:.0f} s")
        return
    tell(f"{what}: failed on {outcome.host} in {outcome.seconds:.0f} s: {outcome.failed}")
    said = [line for line in outcome.log.splitlines() if line.strip() and not line.startswith("WARNING:")]
    for line in said[-SHOWN:]:
        tell(f"    {line}")
    if outcome.log:
        tell(f"    the whole log: {log}")
