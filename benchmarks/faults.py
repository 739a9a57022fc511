"""Break a reduced workflow in every way that a machine can, and see whether it comes out right.

    python -m benchmarks.faults [clones] [kills] [interrupts] [full] [together]

Runs the last commit in scratch clones, on 60 images with few steps, and prints a line for each trial and one for each
part; all parts if none is named. Ends with 1 if one thing is not as it should be.

clones: two clean clones in folders of other names, with other hash seeds, one of them on one core, give equal bytes.
kills: a `dvc repro` killed with all its processes at a random moment of a stage; the next one gives the bytes of an
    unbroken one and leaves nothing behind.
interrupts: Ctrl-C in every stage is over within 5 seconds, with one line and no process left.
full: a stage whose files can't get as large as its largest output (RLIMIT_FSIZE) says so, and how to go on, and leaves
    outputs of an unbroken run or none; the next run is right.
together: two `dvc repro` at once, one beside a queue, and two experiments with --temp: at worst DVC says that it is
    locked, and results are right.

"Equal" leaves out what a stage times, and what is written of that.
"""

import contextlib
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from benchmarks.workflow import ENVIRONMENT, PROJECT
from bitlite.workflow.command import GO_ON
from bitlite.workflow.ending import INTERRUPTED

PARAMS = {
    "seed": 0,
    "dataset": {"name": "mnist5k", "max_examples": 60},
    "backbone": {"name": "bit-tiny"},
    "finetune": {"steps": 12, "batch_size": 8, "image_size": 16, "resize": 16, "learning_rate": 0.01},
    "pruning": {
        "dense": {"method": "none"},
        "channels": {"method": "channels", "keep": 0.5, "steps": 8, "batch_size": 8},
    },
    "quantization": {"float32": {"scheme": "float32"}, "int8": {"scheme": "int8", "calibration_images": 20}},
    "where": {"images": 2},
    "benchmark": {"threads": 1, "warmup_runs": 1, "runs": 20},
    "compare": {"baseline": "dense-float32", "max_accuracy_drop": 1.0, "objective": "size"},
}
# One of each kind.
STAGES = (
    "params", "download@dataset", "download@backbone", "check", "finetune", "prune@dense", "prune@channels",
    "convert@channels-int8", "evaluate@channels-int8", "machine", "benchmark@channels-int8", "compare",
)  # fmt: skip
OUTPUTS = "data", "models", "metrics", "plots"
TIMED = re.compile(
    r"data/\.machine|(metrics|plots)/benchmark/|metrics/summary\.json|plots/tradeoff\.|models/release/README\.md"
)
KILLS, SECONDS_TO_END = 25, 5
# What DVC says, and no stage.
DVC = re.compile(
    r"Running stage |> python -m |Stage '|(Generating|Updating) lock file|To track the changes|\tgit add |"
    r"To enable auto staging|\tdvc config |Use `dvc push`|ERROR: failed to reproduce|ERROR: interrupted by the user|$"
)
# Of a dvc.lock that DVC was killed over.
CUT_SHORT = re.compile(r"dvc\.lock' (validation failed|is invalid)|YAML file structure is corrupted")
LOCKED = re.compile("Unable to acquire lock|is busy, it is being blocked by")


class Clone:
    """The last commit with PARAMS, in a folder of its own, with a folder for temporary files."""

    def __init__(self, directory: Path):
        self.directory, self.temporary = directory, directory.with_name(f"{directory.name}-tmp")
        self.temporary.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", PROJECT, directory], check=True)
        self.do("git", "rm", "-rq", "dvc.lock", "metrics", "plots")
        YAML().dump(PARAMS, directory / "params.yaml")
        self.commit()

    def commit(self) -> None:
        self.do("git", "add", "-A")
        self.do("git", "-c", "user.name=faults", "-c", "user.email=@", "commit", "-qm", "As it is")

    def start(self, *command: str, limits=None, **environment: str) -> subprocess.Popen:
        """A process in a session, and so a process group, of its own, with all that it prints as its `stdout`."""
        return subprocess.Popen(
            command, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**ENVIRONMENT, "TMPDIR": str(self.temporary), **environment}, start_new_session=True,
            preexec_fn=limits,
        )  # fmt: skip

    def try_to(self, *command: str, **options) -> tuple[int, str]:
        """The exit status of a command, and what it prints."""
        process = self.start(*command, **options)
        said = process.communicate()[0]
        return process.returncode, said

    def do(self, *command: str, **options) -> str:
        """What a command prints that must succeed."""
        status, said = self.try_to(*command, **options)
        if status:
            sys.exit(f"{' '.join(command)} failed:\n{said}")
        return said

    def bytes(self) -> dict[str, str]:
        """The digest of each output that is not timed, by its path."""
        files = (path for folder in OUTPUTS for path in (self.directory / folder).rglob("*") if path.is_file())
        digests = {str(p.relative_to(self.directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        return {path: digest for path, digest in digests.items() if not TIMED.match(path)}

    def leftovers(self) -> list[str]:
        """Scratch and checkpoints among the outputs; not what libraries of killed processes leave in TMPDIR."""
        found = [path for folder in OUTPUTS for path in (self.directory / folder).rglob(".*-*")]
        found += self.directory.glob("*/.interrupted")
        return [path.name for path in found]

    def outputs(self, stage: str) -> dict[Path, Path]:
        """Where DVC's cache keeps each output of a stage, unless Git does."""
        locked = YAML(typ="safe").load(self.directory / "dvc.lock")["stages"][stage]["outs"]
        cache = self.directory / ".dvc/cache/files/md5"
        return {self.directory / out["path"]: cache / out["md5"][:2] / out["md5"][2:] for out in locked}

    def forget(self, stage: str) -> None:
        """Remove the outputs of a stage and what DVC's cache has of them, so that it must run again."""
        shutil.rmtree(self.directory / ".dvc/cache/runs", ignore_errors=True)
        for path, cached in self.outputs(stage).items():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            cached.unlink(missing_ok=True)

    def helped(self) -> list[str]:
        """The ways out that `make repro` names for files that DVC left cut short, after they were taken."""
        taken = []
        while (found := self.try_to("make", "--silent", "unharmed"))[0]:
            way_out = found[1].splitlines()[0].rpartition(": ")[2]
            self.do(*way_out.split())
            taken.append(f"after {way_out}")
        return taken

    def processes(self) -> list[psutil.Process]:
        """Those that run in the clone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


class Unbroken(Clone):
    """A clone after `dvc repro`, committed. seconds: how long each stage took, with DVC's own work for it."""

    def __init__(self, directory: Path, **environment: str):
        super().__init__(directory)
        self.seconds, stage, since = {}, None, time.monotonic()
        process, lines = self.start("dvc", "repro", **environment), []
        for line in process.stdout:
            lines.append(line)
            if begun := re.match("Running stage '(.+)':", line):
                self.seconds[stage], since = time.monotonic() - since, time.monotonic()
                stage = begun[1]
        self.seconds[stage] = time.monotonic() - since
        if process.wait():
            sys.exit("".join(lines))
        self.expected = self.bytes()
        self.commit()

    def wrong(self) -> str:
        """What differs from the unbroken run, or is left behind; "" if nothing."""
        found, left = self.bytes(), self.leftovers()
        paths = sorted(found.keys() | self.expected.keys())
        others = [path for path in paths if found.get(path) != self.expected.get(path)]
        return "; ".join([f"{len(others)} files differ: {', '.join(others[:3])}"] * bool(others) + left)


def main(*parts: str) -> None:
    unknown = set(parts) - PARTS.keys()
    if unknown:
        sys.exit(__doc__)
    # A shell has what it runs in the background ignore SIGINT, and so all that this starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch:
        clone = Unbroken(Path(scratch) / "a clone")
        good = [PARTS[part](clone) for part in parts or PARTS]
    if not all(good):
        sys.exit(1)


def told(part: str, trials: Iterable[tuple[str, str, bool]], what: str) -> bool:
    """Print each trial (its name, how it came out, whether that is right), and how many of them are right."""
    right = []
    for name, outcome, good in trials:
        print(f"{part:11} {name:32} {'' if good else 'WRONG: '}{outcome}", flush=True)
        right.append(good)
    print(f"{part}: {sum(right)} of {len(right)} {what}", flush=True)
    return all(right)


def clones(clone: Unbroken) -> bool:
    def trials() -> Iterator[tuple[str, str, bool]]:
        other = Clone(clone.directory.with_name("Größe 模型"))
        one = min(os.sched_getaffinity(0))
        other.do("dvc", "repro", PYTHONHASHSEED="7", limits=lambda: os.sched_setaffinity(0, {one}))
        found = other.bytes()
        for path in sorted(clone.expected.keys() | found.keys()):
            equal = found.get(path) == clone.expected.get(path)
            yield path, "equal" if equal else "differs", equal

    return told("clones", trials(), "files of two clean clones, one of them on one core, have equal bytes")


def kills(clone: Unbroken) -> bool:
    def trials() -> Iterator[tuple[str, str, bool]]:
        chosen = random.Random(0)
        stages = [STAGES[number % len(STAGES)] for number in range(KILLS)]
        for stage in stages:
            moment = chosen.random() * clone.seconds[stage]
            clone.forget(stage)
            process = clone.start("dvc", "repro")
            reached(process, stage)
            time.sleep(moment)
            over = process.poll() is not None
            end(process, signal.SIGKILL)
            name = f"{stage}, after {moment:.1f} s" + (" (over by then)" if over else "")
            helped = clone.helped()
            status, said = clone.try_to("dvc", "repro")
            if status and CUT_SHORT.search(said):  # at the end of a line, which make does not see
                clone.do("git", "checkout", "dvc.lock")
                helped.append("after git checkout dvc.lock")
                status, said = clone.try_to("dvc", "repro")
            wrong = said[-500:] if status else clone.wrong()
            yield name, wrong or " ".join(["right", *helped]), not wrong

    return told("kills", trials(), "killed runs went on to the bytes of an unbroken run and left nothing behind")


def interrupts(clone: Unbroken) -> bool:
    def trials() -> Iterator[tuple[str, str, bool]]:
        chosen = random.Random(1)
        for stage in reversed(STAGES):  # none needs what a later one has lost
            process = clone.start("dvc", "repro", "--force", "--single-item", stage)
            reached(process, stage)
            # From Python's own start on, which takes some tenths of a second, to the end.
            moment = 0.5 + chosen.random() * max(0, 0.6 * clone.seconds[stage] - 0.5)
            time.sleep(moment)
            since = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            said = process.communicate()[0]
            while (left := clone.processes()) and time.monotonic() - since < 2 * SECONDS_TO_END:
                time.sleep(0.1)
            seconds = time.monotonic() - since
            lines = [line for line in said.splitlines() if not DVC.match(line) and "|" not in line]
            over = "failed to reproduce" not in said
            quick = seconds < SECONDS_TO_END and "Traceback" not in said
            # DVC tells of itself, where it was at work and not the stage.
            told_once = lines[-1:] == [INTERRUPTED] or (not lines and "interrupted by the user" in said)
            told_of = ["over by then"] * over + clone.helped()
            outcome = f"{seconds:.1f} s, {len(left)} processes left, {lines} {', '.join(told_of)}".rstrip()
            yield f"{stage}, after {moment:.1f} s", outcome, quick and (over or told_once) and not left
        status, said = clone.try_to("dvc", "repro")
        wrong = said[-500:] if status else clone.wrong()
        yield "dvc repro after all of them", wrong or "right", not wrong

    return told("interrupts", trials(), "were over in 5 s with one line and no process left, and dvc repro right after")


def full(clone: Unbroken) -> bool:
    def trials() -> Iterator[tuple[str, str, bool]]:
        for stage in STAGES:
            name, _, item = stage.partition("@")
            arguments = item.split("-") if name == "convert" else [item] * bool(item)
            files = (each for path in clone.outputs(stage) for each in (path, *path.rglob("*")) if each.is_file())
            limit = max(each.stat().st_size for each in files) // 2
            limits = lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
            status, said = clone.try_to("python", "-m", f"stages.{name}", *arguments, limits=limits)
            found = clone.bytes()
            halves = [path for path, digest in found.items() if clone.expected.get(path) != digest]
            *_, line, last = ["", *said.splitlines()]
            good = status == 1 and "Traceback" not in said and last == GO_ON and not halves
            outcome = f"exit {status}, {len(halves)} halves, {line}"
            yield f"{stage}, files of {limit} bytes", outcome, good
        status, said = clone.try_to("dvc", "repro", "--force")
        wrong = said[-500:] if status else clone.wrong()
        yield "dvc repro after all of them", wrong or "right", not wrong

    return told("full", trials(), "told of it and how to go on, left no half, and dvc repro was right after")


def together(clone: Unbroken) -> bool:
    def both(*commands: tuple[str, ...]) -> list[tuple[int, str]]:
        processes = [clone.start(*command) for command in commands]
        texts = [process.communicate()[0] for process in processes]
        return [(process.returncode, said) for process, said in zip(processes, texts, strict=True)]

    def locked(done: list[tuple[int, str]]) -> int:
        return sum(bool(LOCKED.search(said)) for _, said in done)

    def wrong_in(done: list[tuple[int, str]]) -> str:
        return "".join(said[-500:] for status, said in done if status and not LOCKED.search(said))

    def trials() -> Iterator[tuple[str, str, bool]]:
        clone.forget("finetune")
        done = both(("dvc", "repro"), ("dvc", "repro"))
        status, said = clone.try_to("dvc", "repro")
        wrong = wrong_in(done) or (said[-500:] if status else clone.wrong())
        yield "two dvc repro", wrong or f"right, {locked(done)} told of the lock", not wrong

        clone.do("dvc", "exp", "run", "--queue", "--name", "queued", "--set-param", "finetune.steps=3")
        clone.forget("finetune")
        process = clone.start("dvc", "repro")
        reached(process, "finetune")
        clone.do("dvc", "queue", "start")
        beside = process.communicate()[0]
        while "Running" in (states := clone.do("dvc", "queue", "status")) or "Queued" in states:
            time.sleep(2)
        wrong = (beside[-500:] if process.returncode else clone.wrong()) or ("" if "Success" in states else states)
        yield "a queue beside dvc repro", wrong or "right", not wrong

        experiments = [
            ("dvc", "exp", "run", "--temp", "--name", f"temp{steps}", "--set-param", f"finetune.steps={steps}")
            for steps in (4, 5)
        ]
        done = both(*experiments)
        shown = clone.do("dvc", "exp", "list", "--name-only").split()
        wrong = wrong_in(done) or clone.wrong()
        good = not wrong and sum(name in shown for name in ("temp4", "temp5")) == sum(not status for status, _ in done)
        yield "two dvc exp run --temp", wrong or f"right, {locked(done)} told of the lock", good

    return told("together", trials(), "gave right results, at worst with DVC's word that it is locked")


def reached(process: subprocess.Popen, stage: str) -> None:
    """Read what DVC prints up to the line that it runs `stage`."""
    said = []
    while not (said and said[-1].startswith(f"Running stage '{stage}'")):
        said.append(process.stdout.readline())
        if not said[-1]:
            sys.exit(f"DVC does not run {stage}:\n{''.join(said)}")


def end(process: subprocess.Popen, by: signal.Signals) -> None:
    """Send a signal to all processes of its group, and wait until they have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, by)
    process.communicate()


PARTS = {each.__name__: each for each in (clones, kills, interrupts, full, together)}

if __name__ == "__main__":
    main(*sys.argv[1:])
