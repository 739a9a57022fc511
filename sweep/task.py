"""What runs on a host: one experiment, in a clone of its own.

Ray sends this module to its hosts as it stands: it imports the standard library alone.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# Runs the command that follows it, and ends its whole group of processes when who started it dies: a host whose Ray was
# killed must not go on. Ray has its tasks ignore SIGINT.
GUARD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
starter, process = os.getppid(), subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGINT, signal.SIG_IGN)
while process.poll() is None:
    if os.getppid() != starter:
        os.killpg(0, signal.SIGKILL)
    time.sleep(0.1)
sys.exit(process.returncode)
"""
# Where stages look for trainings that were interrupted (bitlite.workflow.paths.interrupted).
INTERRUPTED = "models/.interrupted"
# In the folder of each task.
LOCK = "lock"
# Seconds that an interrupted command has to clean up.
CLEAN_UP = 10
# Characters of a log that are kept.
LOG = 100_000


class Job(NamedTuple):
    """An experiment to run, by its name and overrides; without a name, only `stages` for the run cache."""

    git: str
    revision: str
    remote: str
    overrides: tuple[str, ...]
    name: str = ""
    stages: tuple[str, ...] = ()
    # The folder of clones and of the cache, on the host's own disk; '': in that of temporary files.
    scratch: str = ""
    # GIT_AUTHOR_NAME and the like, for hosts whose Git does not know who commits.
    author: tuple[tuple[str, str], ...] = ()


class Outcome(NamedTuple):
    """What became of a job: its host, how many seconds it took, what was printed, and what failed, if anything."""

    host: str
    seconds: float
    log: str
    failed: str = ""


def run(job: Job) -> Outcome:
    """Do the job, and send its results to the Git and DVC remotes.

    Data and run cache go first: an experiment that is on the Git remote has everything.
    """
    start = time.monotonic()
    # Of this user and project: the run cache goes to the DVC remote as a whole.
    project = hashlib.sha256(job.git.encode()).hexdigest()[:10]
    scratch = Path(job.scratch or tempfile.gettempdir()) / f"bitlite-sweep-{os.getuid()}" / project
    scratch.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(scratch)
    folder = Path(tempfile.mkdtemp(prefix=f"{job.name or 'common'}.", dir=scratch))
    failed = ""
    with (folder / "its lock").open("w") as lock, (folder / "log").open("w+b") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "its lock").rename(folder / LOCK)  # others look for it only now
        try:
            _experiment(job, folder / "clone", scratch, log)
        except subprocess.CalledProcessError as error:
            failed = " ".join(map(str, error.cmd[:3]))
        finally:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG))
            said = log.read().decode(errors="replace")
            shutil.rmtree(folder, ignore_errors=True)
    return Outcome(platform.node(), time.monotonic() - start, said, failed)


def _clear_abandoned(scratch: Path) -> None:
    """Remove the folders of tasks that were killed: nobody holds their locks."""
    for path in scratch.glob(f"*/{LOCK}"):
        try:
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # it is held, or gone
            continue


def _experiment(job: Job, clone: Path, scratch: Path, log) -> None:
    host = hashlib.sha256(platform.node().encode()).hexdigest()[:16]
    environment = {
        **dict(job.author),
        "BITLITE_HOST": host,  # stages.machine takes it for a part of what a timing depends on
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def call(*command: str, folder: Path = clone) -> None:
        _call(command, folder, environment, log)

    call("git", "clone", "--quiet", "--no-checkout", job.git, str(clone), folder=clone.parent)
    call("git", "checkout", "--quiet", "--detach", job.revision)
    # Experiments of a host share what they pull, and trainings that were interrupted there go on.
    call("dvc", "config", "--local", "cache.dir", str(scratch / "cache"))
    call("dvc", "config", "--local", "core.remote", job.remote)
    (scratch / "interrupted").mkdir(exist_ok=True)
    (clone / INTERRUPTED).parent.mkdir(exist_ok=True)
    (clone / INTERRUPTED).symlink_to(scratch / "interrupted")
    overrides = [word for each in job.overrides for word in ("-S", each)]
    name = ["--name", job.name] if job.name else []
    call("dvc", "exp", "run", "--pull", "--allow-missing", *name, *overrides, *job.stages)
    call("dvc", "push", "--run-cache", *job.stages)
    if job.name:
        # A host that was taken for lost may have sent it as well.
        call("dvc", "exp", "push", "--no-cache", "--force", job.git, job.name)


def _call(command: tuple[str, ...], folder: Path, environment: dict[str, str], log) -> None:
    log.write(f"$ {' '.join(command)}\n".encode())
    log.flush()
    guarded = [sys.executable, "-c", GUARD, *command]
    with subprocess.Popen(
        guarded, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    ) as process:
        try:
            while process.poll() is None:
                time.sleep(0.1)  # Ray can't interrupt a wait
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(CLEAN_UP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
