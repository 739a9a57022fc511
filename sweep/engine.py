"""Runs the points of a sweep on Ray: on the cluster that RAY_ADDRESS or `ray start` names, or on this machine."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError

from bitlite.workflow.errors import InputError, one_line, tell
from sweep import task
from sweep.points import Group, Point
from sweep.task import Job, Outcome

LOGS = Path(".dvc/tmp/sweep")
# Lines of a log that are shown of what failed.
SHOWN = 6


@dataclass(frozen=True)
class Project:
    """What hosts clone: a `revision` of the repository at `git`, with data in the DVC remote `remote`, at `place`."""

    git: str
    revision: str
    remote: str
    place: str
    author: tuple[tuple[str, str], ...]

    @classmethod
    def committed(cls, git: str, remote: str) -> "Project":
        """The last commit here. `git` names a Git remote, or is its address; `remote` a DVC remote, '' the default one.

        Raises InputError if hosts could not get it: changes are not committed, or the commit is not on the remote.
        """
        if changes := _git("status", "--porcelain", "--untracked-files=no").splitlines():
            raise InputError(
                f"a sweep runs what is committed, and {len(changes)} files differ from it, such as {changes[0][3:]}: "
                "commit them, or set them aside by git stash"
            )
        revision = _git("rev-parse", "HEAD")
        address = git
        if git in _git("remote").splitlines():
            address = _git("remote", "get-url", git)
        if Path(address).exists():
            address = str(Path(address).resolve())
        tips = {line.split()[0] for line in _git("ls-remote", "--heads", "--tags", address).splitlines()}
        if not any(_holds(tip, revision) for tip in tips):
            raise InputError(f"{git} has no branch with the last commit, {revision[:7]}: git push {git} HEAD")
        remote = remote or _dvc_config("core.remote")
        if not remote:
            raise InputError("there is no DVC remote: dvc remote add -d NAME ADDRESS, and commit .dvc/config")
        place = _dvc_config(f"remote.{remote}.url")
        if not place:
            raise InputError(f"there is no DVC remote {remote} in .dvc/config: dvc remote add {remote} ADDRESS")
        if "://" not in place and not Path(place).is_absolute():
            raise InputError(
                f"the DVC remote {remote} is {place}, a path from this clone on: hosts need the whole path"
            )
        who = {"NAME": _git("config", "--default", "sweep", "user.name")}
        who["EMAIL"] = _git("config", "--default", "sweep@localhost", "user.email")
        author = tuple((f"GIT_{role}_{key}", who[key]) for role in ("AUTHOR", "COMMITTER") for key in who)
        return cls(address, revision, remote, place, author)

    def finished(self) -> set[str]:
        """Names of the experiments on this revision that the Git remote has."""
        pattern = f"refs/exps/{self.revision[:2]}/{self.revision[2:]}/*"
        return {line.rpartition("/")[2] for line in _git("ls-remote", self.git, pattern).splitlines()}

    def file(self, point: Point, path: str) -> str:
        """The content of a file that is in Git, of an experiment that the Git remote has."""
        _git("fetch", "--quiet", self.git, f"refs/exps/{self.revision[:2]}/{self.revision[2:]}/{point.name}")
        return _git("show", f"FETCH_HEAD:{path}")


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

    cpus: 0 is all that the smallest host has, so that nothing else runs where a point is timed. memory_gb: 10^9 bytes.
    scratch: the folder of clones and cache on hosts' own disks; '' is that of temporary files.
    """

    cpus: float = 0
    gpus: float = 0
    memory_gb: float = 0
    retries: int = 3
    scratch: str = ""


class Engine:
    """Runs points of a project as tasks of Ray. Made by `engine`."""

    def __init__(self, project: Project, resources: Resources, cpus: float, slots: int) -> None:
        # How many points run at once.
        self.slots = slots
        self._project, self._resources = project, resources
        self._run = ray.remote(task.run).options(
            num_cpus=cpus,
            num_gpus=resources.gpus,
            memory=resources.memory_gb * 10**9,
            max_retries=resources.retries,
            scheduling_strategy="SPREAD",
        )
        self._running: dict[ray.ObjectRef, Point] = {}
        self._free = ray.available_resources().get("CPU", 0)

    def start_common(self, group: Group) -> ray.ObjectRef | None:
        """Start what the points of a group have in common, if anything: `start` takes it."""
        if not group.common:
            return None
        tell(f"{len(group.common)} stages are common to points, and run once, before them")
        return self._run.remote(self._job(group.points[0])._replace(name="", stages=group.common), None)

    def start(self, point: Point, common: ray.ObjectRef | None = None) -> None:
        """Start a point, once what it has in common with others is done."""
        self._running[self._run.remote(self._job(point), common)] = point

    def finished(self) -> Iterator[tuple[Point, Outcome]]:
        """Each started point when it is over; more may be started meanwhile."""
        while self._running:
            (ref,), _ = ray.wait(list(self._running), num_returns=1)
            point = self._running.pop(ref)
            try:
                outcome = ray.get(ref)
            except RayError as error:
                outcome = Outcome("a host that was lost", 0, "", one_line(error))
            LOGS.mkdir(parents=True, exist_ok=True)
            (LOGS / f"{point.name}.log").write_text(outcome.log)
            yield point, outcome

    def cancel(self) -> None:
        """Interrupt what runs, and wait until it has cleaned up."""
        for ref in self._running:
            ray.cancel(ref)
        # A task counts as cancelled before it has ended; its processors are free when it has.
        end = time.monotonic() + 2 * task.CLEAN_UP
        while self._running and ray.available_resources().get("CPU", 0) < self._free and time.monotonic() < end:
            time.sleep(0.2)

    def _job(self, point: Point) -> Job:
        project = self._project
        return Job(
            project.git, project.revision, project.remote, project.place, point.overrides, point.name,
            scratch=self._resources.scratch, author=project.author,
        )  # fmt: skip


@contextmanager
def engine(project: Project, resources: Resources) -> Iterator[Engine]:
    """An engine as long as the block lasts; what still runs when it is left, as by Ctrl-C, is interrupted.

    Raises InputError if no host has what a point takes, unless more may come, as in a cluster that scales.
    """
    ray.cloudpickle.register_pickle_by_value(task)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    ray.init(log_to_driver=False, configure_logging=True, logging_level=logging.ERROR, include_dashboard=False)
    try:
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = resources.cpus or min(host.get("CPU", 0) for host in hosts if host.get("CPU", 0))
        asked = {"CPU": cpus, "GPU": resources.gpus, "memory": resources.memory_gb * 10**9}
        slots = sum(_fits(host, asked) for host in hosts)
        about = f"{cpus:g} CPUs, {resources.gpus:g} GPUs and {resources.memory_gb:g} GB"
        if not slots:
            raise InputError(f"a point takes {about}, which none of {len(hosts)} hosts has: --cpus, --gpus, --memory")
        tell(f"{len(hosts)} hosts, on which {slots} points run at once; each takes {about}")
        made = Engine(project, resources, cpus, slots)
        try:
            yield made
        finally:
            made.cancel()
    finally:
        ray.shutdown()


def _fits(host: dict[str, float], asked: dict[str, float]) -> int:
    return int(min(host.get(name, 0) // amount for name, amount in asked.items() if amount))


def sweep(project: Project, points: Sequence[Point], groups: Iterable[Group], resources: Resources) -> int:
    """Run all points in groups, telling of each as it ends. The number of those that failed."""
    failed = 0
    with engine(project, resources) as on:
        for group in groups:
            common = on.start_common(group)
            for point in group.points:
                on.start(point, common)
        for number, (point, outcome) in enumerate(on.finished(), 1):
            failed += bool(outcome.failed)
            told(f"{number}/{len(points)}", point, outcome)
    return failed


def told(where: str, point: Point, outcome: Outcome) -> None:
    """Tell of a point that is over."""
    if not outcome.failed:
        tell(f"{where} {point}: done on {outcome.host} in {outcome.seconds:.0f} s")
        return
    tell(f"{where} {point}: failed on {outcome.host} in {outcome.seconds:.0f} s, {outcome.failed}")
    for line in [line for line in outcome.log.splitlines() if line.strip()][-SHOWN:]:
        tell(f"    {line}")
    tell(f"    the whole log: {LOGS / point.name}.log")
