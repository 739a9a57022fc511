"""Sweeps over hosts: two Ray nodes in this machine, a bare Git remote, and a folder as DVC remote."""

import contextlib
import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitlite.workflow import paths
from bitlite.workflow.errors import InputError
from tests.needed import missing

try:
    import optuna
    from ray.cluster_utils import Cluster
except ImportError:
    missing("Ray and Optuna are not here: pip install -r requirements-sweep.txt")

from sweep import __main__ as command
from sweep import engine, points, task
from sweep.search import Space
from sweep.task import Job

PROJECT = str(Path(__file__).parents[1])
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
DVC = """
stages:
  finetune:
    cmd: python work.py finetune
    params: [finetune]
    outs: [finetuned]
  prune:
    foreach: ${pruning}
    do:
      cmd: python work.py prune ${key}
      params: ["pruning.${key}"]
      deps: [finetuned]
      outs: ["pruned/${key}"]
  machine:
    cmd: python work.py machine
    always_changed: true
    outs: [machine]
  benchmark:
    cmd: python work.py benchmark
    deps: [machine, pruned]
    metrics:
      - metrics/benchmark/a.json: {cache: false}
      - metrics/evaluate/a.json: {cache: false}
      - metrics/summary.json: {cache: false}
"""
PARAMS = """
finetune: {steps: STEPS}
pruning: {a: {keep: 1}, b: {keep: 1}}
"""
STEPS = itertools.count()
# Each stage leaves a line in the folder RAN, which all clones of a test know: what ran, and where.
WORK = """
import json, os, sys, time, uuid
from pathlib import Path
from ruamel.yaml import YAML

params, what = YAML().load(Path("params.yaml")), sys.argv[1]
run = Path(os.environ["RAN"], uuid.uuid4().hex)
run.write_text(f"{' '.join(sys.argv[1:])} on {os.environ.get('BITLITE_HOST', '')}")
if what == "finetune":
    time.sleep(max(0, params["finetune"]["steps"] - 100))  # seconds
    Path("finetuned").write_text(str(params["finetune"]["steps"]))
elif what == "prune":
    keep = params["pruning"][sys.argv[2]]["keep"]
    time.sleep(max(0, keep - 100))  # seconds
    if keep == 13:
        sys.exit("keep is 13, which nobody bears")
    Path("pruned").mkdir(exist_ok=True)
    Path("pruned", sys.argv[2]).write_text(f"{Path('finetuned').read_text()} {keep}")
elif what == "machine":
    Path("machine").write_text(os.environ.get("BITLITE_HOST", ""))
else:
    keep = float(Path("pruned/a").read_text().split()[1])
    for name, content in (
        ("benchmark/a", {"latency_ms_p50": keep, "baseline_ms_p50": 2 * keep}),
        ("evaluate/a", {"validation_accuracy": 1 - (keep - 2) ** 2 / 100}),
        ("summary", {"selected": "a"}),
    ):
        path = Path("metrics", f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for what the module's hosts have: their disks, and `ran`, where stages say that they ran."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "ran").mkdir()
    return folder


@pytest.fixture
def project(tmp_path, places, monkeypatch):
    """A project whose commit is on a Git remote, in the working directory."""
    for name, value in (("NAME", "a"), ("EMAIL", "a@localhost")):
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{role}_{name}", value)
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("RAN", str(places / "ran"))
    for each in (places / "ran").iterdir():
        each.unlink()
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    git("init", "--quiet", "--initial-branch=main")
    dvc("init")
    # Hosts keep their caches from test to test: what one makes must not serve another, nor experiments' names be equal.
    params = PARAMS.replace("STEPS", str(next(STEPS)))
    for name, content in (("dvc.yaml", DVC), ("params.yaml", params), ("work.py", WORK), (".gitignore", "/models/\n")):
        Path(name).write_text(content)
    dvc("remote", "add", "-d", "storage", tmp_path / "storage")
    git("add", ".")
    git("commit", "--quiet", "--message=a project")
    git("init", "--quiet", "--bare", tmp_path / "remote.git")
    git("remote", "add", "origin", tmp_path / "remote.git")
    git("push", "--quiet", "origin", "main")
    return project


@pytest.fixture(scope="module")
def cluster(places):
    """Two Ray nodes that stand for hosts: each has a name and a disk of its own."""
    cluster = Cluster()
    for name in ("one", "two"):
        add(cluster, places, name)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()


def add(cluster, places, name):
    (places / name).mkdir()
    environment = {"RAN": str(places / "ran"), "PATH": PATH, "BITLITE_HOST": name, "TMPDIR": str(places / name)}
    return cluster.add_node(num_cpus=1, env_vars=environment, include_dashboard=False)


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def dvc(*arguments):
    subprocess.run(["dvc", *arguments, "-q"], check=True)


def ran(places):
    """What stages ran, each with its host."""
    return sorted(each.read_text() for each in (places / "ran").iterdir())


def said(places, stage):
    """How often a stage ran."""
    return [line.partition(" on ")[0] for line in ran(places)].count(stage)


def names():
    """The experiments of the Git remote."""
    return sorted(line.rpartition("/")[2] for line in git("ls-remote", "origin", "refs/exps/*").splitlines())


def results():
    """What a run leaves, but for timings."""
    paths = ["params.yaml", "finetuned", "pruned/a", "pruned/b", "metrics/evaluate/a.json", "metrics/summary.json"]
    return [Path(path).read_text() for path in paths]


def test_results_are_those_of_one_clone_and_what_is_common_runs_once(cluster, project, places, capsys):
    command.main("-S", "pruning.a.keep=2,3", "-S", "pruning.b.keep=4")
    assert "results: dvc exp pull origin" in capsys.readouterr().err
    stages = [line.partition(" on ")[0] for line in ran(places)]
    assert [stages.count(each) for each in ("finetune", "prune b", "prune a")] == [1, 1, 2]
    dvc("exp", "pull", "origin")
    swept = []
    for name in names():
        dvc("exp", "apply", name)
        swept.append(results())
    git("checkout", "--quiet", "--force", "main")
    for keep in (2, 3):
        dvc("exp", "run", "-S", f"pruning.a.keep={keep}", "-S", "pruning.b.keep=4")
        assert results() in swept
    assert len(swept) == 2


def test_points_that_fail_are_told_at_the_end_and_only_they_run_again(cluster, project, places, capsys):
    sweep = ("-S", "pruning.a.keep=2,13")
    with pytest.raises(InputError, match="points that failed: 1"):
        command.main(*sweep)
    told = capsys.readouterr().err
    assert "pruning.a.keep=13: failed on" in told
    assert "keep is 13, which nobody bears" in told
    assert "pruning.a.keep=2: done on" in told
    assert len(names()) == 1
    before = len(ran(places))
    with pytest.raises(InputError, match="points that failed: 1"):
        command.main(*sweep)
    assert "points: 2, of which origin has 1" in capsys.readouterr().err
    assert {line.partition(" on ")[0] for line in ran(places)[before:]} <= {"prune a", "prune b", "finetune"}


@pytest.mark.parametrize(
    ("option", "stage"), [("pruning.a.keep=2,1000", "prune a"), ("finetune.steps=1000 pruning.a.keep=2,3", "finetune")]
)
def test_ctrl_c_stops_the_tasks_and_leaves_nothing(cluster, project, places, option, stage):
    sweep = [sys.executable, "-m", "sweep", *(word for each in option.split() for word in ("-S", each))]
    running = 2 if stage == "prune a" else 1
    with subprocess.Popen(
        sweep, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PROJECT}
    ) as process:
        wait_for(lambda: said(places, stage) == running or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert told.endswith("interrupted\n"), told
    assert process.returncode == 130
    assert not any(b"work.py" in command for command in commands())
    assert not list(places.glob("*/bitlite-sweep-*/*/*.*"))


def commands():
    """The command lines of all processes."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield each.read_bytes()


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_timings_never_come_from_another_host_and_all_else_does(project, places, monkeypatch):
    there = engine.Project.committed("origin", "")
    for number, host in enumerate(("one", "two", "one")):
        monkeypatch.setenv("BITLITE_HOST", host)
        # No stage depends on what tells the points apart.
        job = Job(
            there.git,
            there.revision,
            there.remote,
            (f"+note={number}",),
            f"note{number}",
            scratch=places / host,
        )
        assert not task.run(job).failed
    assert len(names()) == 3
    assert [line for line in ran(places) if "benchmark" in line] == ["benchmark on one", "benchmark on two"]
    assert said(places, "prune a") == said(places, "finetune") == 1


def test_a_search_finds_the_best_and_goes_on_where_it_stopped(cluster, project, capsys):
    asked = ("-S", "pruning.a.keep=interval(1.0,4.0)", "--objective", "accuracy,latency_ms_p50")
    command.main(*asked, "--search", "2")
    assert len(names()) == 2
    command.main(*asked, "--search", "4")
    assert len(names()) == 4
    assert "points: 4, of which 2 are done" in capsys.readouterr().err
    (table,) = Path("plots/search").glob("*.csv")
    rows = list(csv.DictReader(table.open()))
    assert sorted(each["experiment"] for each in rows) == names()
    for row in rows:
        keep = float(row["pruning.a.keep"])
        assert float(row["latency_ms_p50"]) == keep
        assert float(row["validation_accuracy"]) == pytest.approx(1 - (keep - 2) ** 2 / 100)
        beaten = [
            each
            for each in rows
            if float(each["validation_accuracy"]) > float(row["validation_accuracy"])
            and float(each["latency_ms_p50"]) < float(row["latency_ms_p50"])
        ]
        assert (row["front"] == "True") == (not beaten)
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_host_that_is_killed_loses_nothing(cluster, project, places):
    victim = add(cluster, places, "victim")
    # Three points that take seconds on three hosts.
    sweep = [sys.executable, "-m", "sweep", "-S", "pruning.a.keep=104,105,106"]
    with subprocess.Popen(
        sweep, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PROJECT}
    ) as process:
        wait_for(lambda: "prune a on victim" in ran(places) or process.poll() is not None)
        cluster.remove_node(victim, allow_graceful=False)
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if b"BITLITE_HOST=victim" in (each / "environ").read_bytes().split(b"\0"):
                    os.kill(int(each.name), signal.SIGKILL)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 0, told
    assert len(names()) == 3
    assert "on victim" not in " ".join(line for line in ran(places) if "benchmark" in line)


OTHER = """
[core]
    remote = other
['remote "other"']
    url = ../../storage
"""


def configured(text):
    """Commit and push another .dvc/config."""
    Path(".dvc/config").write_text(text)
    git("commit", "--quiet", "--all", "--message=another")
    git("push", "--quiet", "origin", "main")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Path("params.yaml").write_text("{}"), "what is committed, and params.yaml differs from it"),
        (lambda: git("commit", "--quiet", "--allow-empty", "--message=b"), "git push origin HEAD"),
        (lambda: git("push", "--quiet", "origin", ":main"), "git push origin HEAD"),
        (lambda: git("remote", "set-url", "origin", "nowhere"), "git ls-remote"),
        (lambda: configured(""), "there is no DVC remote: dvc remote add -d NAME ADDRESS"),
        (lambda: configured(OTHER), "the DVC remote other is a path from .dvc on"),
    ],
)
def test_what_hosts_could_not_get_is_refused(project, make, told):
    subprocess.run(["git", "-C", "../remote.git", "config", "receive.denyDeleteCurrent", "ignore"], check=True)
    make()
    with pytest.raises(InputError, match=told):
        command.main("-S", "pruning.a.keep=2")


def test_what_is_common_is_what_no_varied_key_reaches(project):
    def common(*sweeps):
        (group,) = points.groups(points.grid(sweeps, "revision"))
        return set(group.stages)

    assert common("pruning.a.keep=2,3") == {"finetune", "prune@b"}
    assert common("pruning.a.keep=2,3", "+pruning.c={keep: 1}") == {"finetune", "prune@b"}
    # dvc.yaml has no prune@b then.
    assert common("pruning.a.keep=2,3", "~pruning.b") == {"finetune"}
    assert common("pruning.a.keep=2,3", "pruning={a: {keep: 1}}") == {"finetune"}
    assert common("pruning.a.keep=2") == set()


def test_points_are_grouped_by_what_they_ask_of_fine_tuning(project):
    found = points.groups(points.grid(["finetune.steps=1,2", "pruning.a.keep=3,4"], "revision"))
    assert [group.overrides for group in found] == [("finetune.steps=1",), ("finetune.steps=2",)]
    assert all(group.stages == ("finetune", "prune@b") and len(group.points) == 2 for group in found)


def test_a_space_has_the_values_that_its_spelling_says():
    space = Space.of(
        [
            "a=range(0.5,0.95,0.05)",
            "b=interval(0.95,0.9999)",
            "c=int(interval(8,64))",
            "d=x,y",
            "e=tag(log,interval(1e-4,1))",
            "f=1",
            "g=range(9,1,-4)",
        ]
    )
    assert space.fixed == ("f=1",)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask(dict(space.free)).params for _ in range(200)]
    texts = {key: {space.text(key, params[key]) for params in drawn} for key in space.free}
    assert texts["a"] == {"0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9"}
    assert all(0.95 <= float(each) <= 0.9999 and len(each) <= 6 for each in texts["b"])
    assert all(8 <= int(each) <= 64 for each in texts["c"])
    assert texts["d"] == {"x", "y"}
    assert min(map(float, texts["e"])) < 0.01 and all(1e-4 <= float(each) <= 1 for each in texts["e"])
    assert texts["g"] == {"9", "5"}


def test_hosts_find_interrupted_trainings_where_stages_look_for_them():
    assert str(paths.interrupted()) == task.INTERRUPTED


@pytest.mark.parametrize("values", ["", "=2", "pruning.a.keep=glob(*)", "pruning.a.keep=[1", "a.b=1"])
def test_sweeps_that_can_t_be_read_are_refused(project, values):
    with pytest.raises(InputError, match="^-S"):
        points.grid([values], "revision")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-S", "a=1"], "something to choose"),
        (["-S", "a=interval(2,x)"], "can't be read"),
        (["-S", "a=1,2", "--objective", "beauty"], "--objective has beauty; there are accuracy"),
        (["-S", "a=1,2", "--variant", "c"], "--variant is c, of which there is no metrics/evaluate/c.json"),
    ],
)
def test_searches_that_can_t_be_done_are_refused(project, arguments, told):
    with pytest.raises(InputError, match=told):
        command.main(*arguments, "--search", "2")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--cpus", "-1"), ("--search", "0"), ("--retries", "x"), ("--retries", "-1"), ("--memory", "inf")],
)
def test_numbers_that_can_t_be_are_refused(option, value, capsys):
    with pytest.raises(SystemExit):
        command.main("-S", "pruning.a.keep=2", option, value)
    assert f"{option}: {value} is no" in capsys.readouterr().err


def test_a_lost_host_may_be_asked_to_cost_its_points():
    assert command.parser().parse_args(["-S", "pruning.a.keep=2", "--retries", "0"]).retries == 0
