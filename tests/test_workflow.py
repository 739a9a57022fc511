"""The whole pipeline through DVC, in a copy of the project, on twelve images of three colours."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

PROJECT = Path(__file__).parents[1]
# The stages that look at all of params.yaml before anything is trained.
CHECKS = {"params", "check"}
# DVC runs it each time: the machine may be another one.
ALWAYS = "machine"
VARIANTS = {f"{p}-{q}" for p in ("dense", "channels") for q in ("float32", "small")}
PARAMS = {
    "seed": 0,
    "dataset": {"name": "images", "validation": 0.2, "test": 0.2},
    "backbone": {"name": "bit-tiny"},
    "finetune": {"steps": 2, "batch_size": 8, "image_size": 16, "resize": 16},
    "pruning": {"dense": {"method": "none"}, "channels": {"method": "channels", "keep": 0.5, "steps": 0}},
    "quantization": {"float32": {"scheme": "float32"}, "small": {"scheme": "dynamic"}},
    "where": {"images": 2},
    "benchmark": {"threads": 1, "warmup_runs": 1, "runs": 5},
    "compare": {"baseline": "dense-float32", "max_accuracy_drop": 1.0, "objective": "size"},
}

# How the lines of a run begin that are DVC's own, and those that are the stages'.
DVC = (
    "Running stage '|> python -m |Stage '|(Generating|Updating) lock file|To track the changes|\tgit add |"
    "To enable auto staging|\tdvc config |Use `dvc push`"
)
OURS = (
    r"params\.yaml asks for 4 variants: |images: 30 images, 0 copies of others|[> ] (variant|dense-|channels-)|"
    r"[a-z0-9 ]+ not checked: |(dense|channels)-\w+ is not for |For what 6 test images can tell, |This machine was not "
)


class Repro(NamedTuple):
    """One `dvc repro`: the stages that ran but ALWAYS, those from the run cache, and all that it printed."""

    ran: set[str]
    restored: set[str]
    output: str


class Clone:
    """A copy of the project in a folder of its own, under git, with a params.yaml of its own."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True)
        names = subprocess.check_output(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=PROJECT, text=True
        )
        for name in filter(None, names.split("\0")):
            if (PROJECT / name).exists() and not name.startswith(("metrics/", "plots/", "dvc.lock", "tests/")):
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / name, directory / name, follow_symlinks=False)
        self.run("git", "init", "-q")
        self.commit("--allow-empty")

    def run(self, *command: str, check: bool = True, below: str = ".", **environment: str) -> str:
        """Standard output and error of `command`, run `below` with this Python's programs first on the PATH."""
        done = subprocess.run(
            command,
            cwd=self.directory / below,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "GIT_CONFIG_GLOBAL": os.devnull,  # nobody has said who he is
                **environment,
            },
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def repro(self, *options: str, check: bool = True, **environment: str) -> Repro:
        output = self.run("dvc", "repro", *options, check=check, **environment)
        return Repro(
            set(re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE)) - {ALWAYS},
            set(re.findall(r"^Stage '(.+)' is cached - skipping run", output, re.MULTILINE)),
            output,
        )

    def outputs(self) -> dict[str, str]:
        """Digest of each file that the stages have written, but of what tells that params.yaml was checked."""
        folders = [self.directory / name for name in ("data/dataset", "models", "metrics", "plots")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (*files, self.directory / "report.html")
        }

    def metrics(self) -> set[str]:
        """Files that `dvc metrics show` shows."""
        return set(json.loads(self.run("dvc", "metrics", "show", "--json"))[""]["data"])

    def plotted(self, *command: str) -> set[str]:
        """Files and names of plots that `dvc plots COMMAND` has."""
        shown = json.loads(self.run("dvc", "plots", *command, "--json"))
        assert "errors" not in shown
        return set(shown["data"])

    def status(self) -> set[str]:
        """The stages that `dvc status` calls changed, but ALWAYS."""
        return set(json.loads(self.run("dvc", "status", "--json"))) - {ALWAYS}

    def changed_by(self, params: dict) -> set[str]:
        """The stages that `dvc status` calls changed with other params; params.yaml is left as it was."""
        before = (self.directory / "params.yaml").read_text()
        self.write_params(params)
        try:
            return self.status()
        finally:
            (self.directory / "params.yaml").write_text(before)

    def write_params(self, params: dict) -> None:
        (self.directory / "params.yaml").write_text(yaml.safe_dump(params))

    def commit(self, *options: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@test", "commit", "-q", "-m", "a run", *options)

    def json(self, name: str) -> dict:
        return json.loads((self.directory / name).read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    """The project after `dvc repro` on PARAMS, committed. It lies where programs that quote badly stumble."""
    clone = Clone(tmp_path_factory.mktemp("Größe ñ 模型") / "my clone")
    random = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        (clone.directory / "images" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(80, size=(20, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(clone.directory / "images" / name / f"{number}.png")
    clone.write_params(PARAMS)
    clone.first = clone.repro()
    clone.commit()
    return clone


def stages(name: str, variants: set[str]) -> set[str]:
    return {f"{name}@{variant}" for variant in variants}


def test_a_run_makes_every_output_of_every_variant(clone):
    variant_stages = set().union(*(stages(name, VARIANTS) for name in ("convert", "evaluate", "benchmark")))
    assert clone.first.ran == {
        "params", "download@dataset", "download@backbone", "check", "finetune", "prune@dense", "prune@channels",
        *variant_stages, "compare",
    }  # fmt: skip
    for kind in ("evaluate", "benchmark"):
        files = {path.stem: json.loads(path.read_text()) for path in (clone.directory / "metrics" / kind).iterdir()}
        assert set(files) == VARIANTS
        assert len({tuple(sorted(metrics)) for metrics in files.values()}) == 1, "columns of metrics show differ"
    released = clone.directory / "models" / "release"
    selected = clone.json("metrics/summary.json")["selected"]
    assert (released / "model.tflite").read_bytes() == (
        clone.directory / f"models/tflite/{selected}.tflite"
    ).read_bytes()
    assert (released / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert (clone.directory / "report.html").stat().st_size > 0


def test_the_console_shows_the_lines_of_the_stages_only(clone):
    others = [line for line in clone.first.output.splitlines() if line and not re.match(f"{DVC}|{OURS}", line)]
    assert others == []
    assert all(re.search(f"^{line}", clone.first.output, re.MULTILINE) for line in OURS.split("|")[:2])


def test_params_are_checked_before_any_other_stage(clone):
    assert clone.first.output.startswith("Running stage 'params':")


def test_a_second_run_does_nothing(clone):
    second = clone.repro()
    assert second.ran | second.restored == set()
    assert clone.status() == set()


def test_another_machine_times_everything_anew_and_its_timings_stay_its_own(clone, tmp_path):
    before = clone.outputs()
    (tmp_path / "sitecustomize.py").write_text("import os\nos.cpu_count = lambda: 77\n")
    elsewhere = clone.repro(PYTHONPATH=str(tmp_path))
    assert elsewhere.ran == {*stages("benchmark", VARIANTS), "compare"}
    timings = {f"metrics/benchmark/{variant}.json" for variant in VARIANTS}
    changed = {name for name, digest in clone.outputs().items() if digest != before.get(name)}
    assert timings <= changed
    assert not any(name.startswith(("models/tflite", "metrics/evaluate", "metrics/where")) for name in changed)
    back = clone.repro()
    assert back.ran == set() and back.restored >= stages("benchmark", VARIANTS)
    assert clone.outputs() == before


def test_a_comment_in_params_runs_their_checks_alone(clone):
    path = clone.directory / "params.yaml"
    path.write_text(f"# A comment.\n{path.read_text()}")
    assert clone.repro().ran == CHECKS
    clone.write_params(PARAMS)
    assert clone.repro().ran == set()


def test_an_entry_runs_its_own_stages_only_and_shows_as_long_as_it_is_there(clone):
    added = {**PARAMS, "quantization": {**PARAMS["quantization"], "half": {"scheme": "float16"}}}
    own = {"dense-half", "channels-half"}
    metrics = {f"metrics/{kind}/{variant}.json" for kind in ("evaluate", "where", "benchmark") for variant in own}
    plots = {f"plots/{kind}/{variant}/layers.csv" for kind in ("convert", "benchmark") for variant in own}
    before = clone.outputs()

    clone.write_params(added)
    assert clone.repro().ran == (
        stages("convert", own) | stages("evaluate", own) | stages("benchmark", own) | {*CHECKS, "compare"}
    )
    clone.commit()
    assert metrics <= clone.metrics()
    assert plots <= clone.plotted("show")

    clone.write_params(PARAMS)
    assert clone.repro().ran <= {"compare"}
    assert not any("half" in name for name in clone.metrics() | clone.plotted("show"))
    assert not any("half" in name for name in clone.plotted("diff", "HEAD~1"))
    left = set(clone.outputs()) - set(before)
    assert metrics | plots < left, "files of the entry are the user's to delete"

    for name in left:
        (clone.directory / name).unlink()
    assert clone.repro().ran == set()
    assert clone.outputs() == before
    clone.commit()


def test_a_value_tried_before_comes_back_without_training(clone):
    before = clone.outputs()
    trained = {"finetune", "prune@channels", "prune@dense"}
    clone.write_params({**PARAMS, "finetune": {**PARAMS["finetune"], "steps": 3}})
    assert clone.repro("prune@channels", "prune@dense").ran == {*CHECKS, *trained}
    assert clone.outputs() != before
    clone.write_params(PARAMS)
    back = clone.repro()
    assert back.ran == set()
    assert back.restored == {*CHECKS, *trained}
    assert clone.outputs() == before


@pytest.mark.parametrize(("changed", "kept"), [("dataset", "backbone"), ("backbone", "dataset")])
def test_data_set_and_backbone_are_fetched_apart(clone, changed, kept):
    other = {"dataset": {**PARAMS["dataset"], "test": 0.3}, "backbone": {"name": "bit-tiny-untrained"}}[changed]
    stages_changed = clone.changed_by({**PARAMS, changed: other})
    assert f"download@{changed}" in stages_changed
    assert f"download@{kept}" not in stages_changed


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("finetun", {}, "finetun"),
        ("quantization", {"float32": {"scheme": "float33"}}, "quantization.float32"),
        ("pruning", {"Dense": {"method": "none"}}, "Dense"),
        # Which the last stages alone depend on.
        ("benchmark", {"runs": 0}, "benchmark.runs"),
        ("compare", {"baseline": "sparse-float32"}, "compare.baseline"),
    ],
)
def test_bad_params_stop_the_run_before_any_work_and_lose_nothing(clone, section, value, named):
    before = clone.outputs()
    clone.write_params({**PARAMS, section: value})
    failed = clone.repro(check=False)
    clone.write_params(PARAMS)
    assert failed.ran == {"params"}
    assert len(re.findall(rf"^params.yaml: .*{named}", failed.output, re.MULTILINE)) == 1, failed.output
    assert "Traceback" not in failed.output
    assert clone.outputs() == before
    assert clone.run("git", "status", "--porcelain", "metrics", "plots", "dvc.lock") == ""
    assert clone.repro().ran == set()


@pytest.mark.parametrize(
    ("section", "entry", "told"),
    [
        ("pruning", {"method": "channels", "keep": 0.01}, "pruning.new.keep is 0.01, which leaves none"),
        ("quantization", {"scheme": "int8_mixed", "keep_float": ["no/*"]}, "quantization.new.keep_float has 'no/*'"),
    ],
)
def test_what_the_backbone_has_not_stops_the_run_before_training_and_loses_nothing(clone, section, entry, told):
    before = clone.outputs()
    clone.write_params(
        {**PARAMS, "finetune": {**PARAMS["finetune"], "steps": 5}, section: {**PARAMS[section], "new": entry}}
    )
    failed = clone.repro(check=False)
    clone.write_params(PARAMS)
    assert failed.ran == CHECKS
    assert [line for line in failed.output.splitlines() if line.startswith(told)], failed.output
    assert "Traceback" not in failed.output
    assert clone.outputs() == before
    assert clone.run("git", "status", "--porcelain", "metrics", "plots") == ""
    assert clone.repro().ran == set()


def test_a_stage_that_fails_loses_its_own_outputs_and_checkout_brings_them_back(clone):
    before = clone.outputs()
    clone.write_params({**PARAMS, "finetune": {**PARAMS["finetune"], "learning_rate": 1e9, "steps": 10}})
    failed = clone.repro(check=False)
    assert failed.ran == {*CHECKS, "finetune"}
    assert re.search(r"^finetune\.learning_rate is 1e\+09: at step \d+ .*; try 0\.1$", failed.output, re.MULTILINE)
    assert "Traceback" not in failed.output
    lost = set(before) - set(clone.outputs())
    assert lost and all(re.match("models/finetuned/|plots/finetune/|metrics/finetune.json", name) for name in lost)
    clone.run("dvc", "checkout")
    clone.run("git", "checkout", "metrics", "plots")
    assert clone.outputs() == before
    clone.write_params(PARAMS)
    assert clone.repro().ran == set()


def test_what_does_not_hang_on_a_failed_stage_is_made_and_compared_if_asked(clone):
    before = clone.outputs()
    astray = PARAMS["pruning"]["channels"] | {"steps": 10, "learning_rate": 1e9}
    clone.write_params(
        {**PARAMS, "pruning": PARAMS["pruning"] | {"channels": astray}, "benchmark": {**PARAMS["benchmark"], "runs": 6}}
    )
    failed = clone.repro("--keep-going", check=False)
    assert "`dvc repro` goes on from here" in failed.output
    assert failed.ran == {*CHECKS, "prune@channels", *stages("benchmark", {"dense-float32", "dense-small"})}
    # What the last run measured of the others is still there, but of another model.
    assert (clone.directory / "metrics/evaluate/channels-small.json").exists()

    told = clone.run("python", "-m", "stages.compare", "unfinished")
    assert set(re.findall(r"^[> ] *([a-z]+-[a-z0-9]+) ", told, re.MULTILINE)) == {"dense-float32", "dense-small"}
    assert told.splitlines()[-1] == "not finished: channels-float32, channels-small"
    report = (clone.directory / "report.html").read_text()
    assert "Not finished, and not compared: channels-float32, channels-small." in report
    assert {name for name in clone.outputs() if name.startswith("models/release")} == {
        name for name in before if name.startswith("models/release")
    }
    clone.write_params(PARAMS)
    clone.run("git", "checkout", ".")
    clone.run("dvc", "checkout", "--force")
    assert clone.outputs() == before
    clone.repro()


def test_a_changed_scheme_reruns_what_hangs_on_it_and_shows_in_metrics_diff(clone):
    before = clone.json("metrics/evaluate/dense-small.json")["size_bytes"]
    clone.write_params({**PARAMS, "quantization": {**PARAMS["quantization"], "small": {"scheme": "float16"}}})
    changed = {"dense-small", "channels-small"}
    assert clone.repro().ran == (
        stages("convert", changed) | stages("evaluate", changed) | stages("benchmark", changed) | {*CHECKS, "compare"}
    )
    after = clone.json("metrics/evaluate/dense-small.json")["size_bytes"]
    assert after > before
    rows = [re.split(r"\s+", line) for line in clone.run("dvc", "metrics", "diff").splitlines()]
    assert ["dense-small.json", "size_bytes", str(before), str(after), str(after - before)] in [
        [Path(row[0]).name, *row[1:5]] for row in rows
    ]
    assert not any("dense-float32" in row[0] for row in rows)
    assert "quantization.small.scheme" in clone.run("dvc", "params", "diff")


def test_a_sub_folder_runs_the_same(clone):
    assert list(json.loads(clone.run("dvc", "status", "--json", "../dvc.yaml", below="stages"))) == [
        f"../dvc.yaml:{ALWAYS}"
    ]
    again = clone.run("dvc", "repro", "../dvc.yaml", below="stages")
    assert re.findall("Running stage '(.+)'", again) == [f"../dvc.yaml:{ALWAYS}"]


def test_outputs_may_be_links_into_a_cache_elsewhere_and_stages_do_not_write_through_them(clone, tmp_path):
    """As docs/systems.md has it for another disk."""
    before = clone.outputs()
    shutil.copytree(clone.directory / ".dvc" / "cache", tmp_path / "other disk")
    clone.run("dvc", "cache", "dir", "--local", str(tmp_path / "other disk"))
    clone.run("dvc", "config", "--local", "cache.type", "symlink")
    clone.run("dvc", "checkout", "--relink")
    written = [
        clone.directory / name for name in ("data/.params", "data/.checked", "models/tflite/dense-float32.tflite")
    ]
    assert all(path.is_symlink() for path in written)
    for stage in ("params", "check", "convert dense float32"):
        clone.run(sys.executable, "-m", *f"stages.{stage}".split())
    assert not any(path.is_symlink() for path in written)
    assert clone.outputs() == before
    assert clone.repro().ran == set()


@pytest.mark.parametrize(("folder", "refused"), [("models", True), ("data", True), ("plots", False)])
def test_a_link_to_another_disk_is_refused_where_dvc_refuses_it(tmp_path, folder, refused):
    clone = Clone(tmp_path / "clone")
    clone.write_params(PARAMS)
    (tmp_path / "other disk").mkdir()
    (clone.directory / folder).symlink_to(tmp_path / "other disk")
    done = clone.repro("download@backbone", check=False)
    assert done.ran == ({"params"} if refused else {"params", "download@backbone"})
    told = f"DVC refuses links out of the Git repository ({folder}"
    assert [line.startswith(told) for line in done.output.splitlines()].count(True) == refused
    if refused:  # as DVC does itself, but later
        stage = clone.directory / "stages" / "params.py"
        stage.write_text(stage.read_text().replace("if links := linked_out()", "if links := ()"))
        assert "is outside of git repository" in clone.repro("download@backbone", check=False).output


def test_a_link_to_another_disk_is_taken_without_git(tmp_path):
    clone = Clone(tmp_path / "clone")
    clone.write_params(PARAMS)
    shutil.rmtree(clone.directory / ".git")
    assert "is not a git repository" in clone.repro(check=False).output
    clone.run("dvc", "config", "--local", "core.no_scm", "true")
    (tmp_path / "other disk").mkdir()
    (clone.directory / "models").symlink_to(tmp_path / "other disk")
    assert clone.repro("download@backbone").ran == {"params", "download@backbone"}
    assert (tmp_path / "other disk" / "backbone" / "weights.npz").exists()
