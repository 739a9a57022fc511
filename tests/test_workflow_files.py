"""dvc.yaml against the code: a stage's deps name the rooms that it imports, and imports between rooms run down."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# A room imports those that come after it.
ROOMS = (
    "report", "where", "profiling", "pruning", "tflite", "training", "backbones", "sources", "litert", "bit", "images",
    "workflow",
)  # fmt: skip


def expanded(path: Path) -> dict[str, dict]:
    """The stages of a dvc.yaml. An entry of `foreach` is one of them, and a matrix is: its deps differ in data only."""
    stages = {}
    for name, stage in YAML(typ="safe", pure=True).load(path)["stages"].items():
        if "foreach" not in stage:
            stages[name] = stage
            continue
        for key, item in stage["foreach"].items():
            values = {"key": key, **{f"item.{field}": value for field, value in item.items()}}
            stages[f"{name}@{key}"] = filled(stage["do"], values)
    return stages


def filled(template, values):
    if isinstance(template, dict):
        return {filled(key, values): filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(entry, values) for entry in template]
    return (
        re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], template) if isinstance(template, str) else template
    )


STAGES = expanded(ROOT / "dvc.yaml")
PRETRAINING = expanded(ROOT / "pretrain" / "dvc.yaml")


def outputs(stage: dict) -> dict[str, dict]:
    """Paths of what a stage writes, each with its options."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found


def writers(dep: str, stages: dict[str, dict]) -> set[str]:
    """The stages that write `dep` or, if it is a folder, something in it. The baseline is a variant."""
    dep = dep.replace("${compare.baseline}", "${item.pruning}-${item.quantization}")
    return {name for name, stage in stages.items() if any(f"{out}/".startswith(f"{dep}/") for out in outputs(stage))}


def code(stage: dict) -> set[str]:
    return {dep for dep in stage.get("deps", []) if "bitlite" in Path(dep).parts or dep.endswith(".py")}


def files(module: str) -> set[str]:
    """Files that Python runs to import `module`: those of the packages on the way, and its own if there is one."""
    parts = module.split(".")
    packages = ["/".join(parts[: end + 1]) + "/__init__.py" for end in range(len(parts))]
    return {file for file in (*packages, "/".join(parts) + ".py") if (ROOT / file).is_file()}


def nodes(node: ast.AST, argument: str = "") -> Iterator[ast.AST]:
    """Nodes at and below `node`; with the command's argument given, without the branches that other arguments take."""
    yield node
    match node:
        case ast.If(test=ast.Compare(left=ast.Name(), ops=[ast.Eq()], comparators=[ast.Constant(value)])) if argument:
            below = node.body if value == argument else node.orelse
        case _:
            below = ast.iter_child_nodes(node)
    for child in below:
        yield from nodes(child, argument)


def imports(file: str, argument: str = "") -> set[str]:
    """Files of the project that `file` imports, in functions too."""
    found = set()
    for node in nodes(ast.parse((ROOT / file).read_text()), argument):
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names for file in files(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not followed"
            # `from a import b` runs the module a, and a.b if that is one.
            found |= files(node.module).union(*(files(f"{node.module}.{alias.name}") for alias in node.names))
    return found


def needed(name: str) -> set[str]:
    """Files of the project that a stage's command runs, directly or not. An instance of `foreach` runs its branch."""
    module = re.match(r"python -m (stages\.\w+)", STAGES[name]["cmd"])[1]
    program = module.replace(".", "/") + ".py"
    found, new = {program}, imports(program, name.partition("@")[2]) | files(module) - {program}
    while new:
        found |= new
        new = set().union(*(imports(file) for file in new)) - found
    return found


def rooms(paths: Iterable[str]) -> set[str]:
    return {Path(path).parts[1] for path in paths if re.match(r"bitlite/\w+/", path)}


def test_imports_are_followed():
    # Imported at the top, in a function, by what is imported, and as a package on the way.
    assert needed("prune") >= {
        "stages/prune.py", "stages/__init__.py", "bitlite/__init__.py", "bitlite/bit/__init__.py",
        "bitlite/workflow/errors.py", "bitlite/pruning/__init__.py", "bitlite/litert/__init__.py",
    }  # fmt: skip
    assert rooms(needed("params")) == {"workflow"}
    assert "sources" in rooms(needed("download@dataset")) - rooms(needed("download@backbone"))
    assert "backbones" in rooms(needed("download@backbone")) - rooms(needed("download@dataset"))


@pytest.mark.parametrize("name", STAGES)
def test_deps_name_the_rooms_that_the_stage_imports_and_no_others(name):
    needs = needed(name)
    programs = {file for file in needs if file.startswith("stages/") and file != "stages/__init__.py"}
    used = {f"bitlite/{room}" for room in rooms(needs)}
    assert code(STAGES[name]) == programs | used


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_down(room):
    below = ROOMS[ROOMS.index(room) :]
    for path in (ROOT / "bitlite" / room).rglob("*.py"):
        imported = imports(str(path.relative_to(ROOT)))
        assert rooms(imported) <= set(below), path
        assert not any(file.startswith("stages/") for file in imported), path


def test_every_room_has_its_place_in_the_order():
    assert {path.parent.name for path in (ROOT / "bitlite").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("*.py")), ids=lambda path: path.name)
def test_no_stage_imports_a_stage(path):
    assert not any(file.startswith("stages/") for file in imports(str(path.relative_to(ROOT))))


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("*.py")), ids=lambda path: path.name)
def test_stages_leave_tensorflow_to_the_rooms(path):
    """Before `bitlite` is imported, TensorFlow would bring another Keras."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in getattr(node, "names", [])] + [getattr(node, "module", None) or ""]
        assert not any(name.partition(".")[0] in ("tensorflow", "tf_keras") for name in names)


def test_packages_hold_a_docstring_alone_and_bitlite_imports_the_environment():
    # Which is why the __init__.py of stages and bitlite need not be deps: every stage names the room workflow.
    for path in (ROOT / "stages" / "__init__.py", *(ROOT / "bitlite").glob("**/__init__.py")):
        tree = ast.parse(path.read_text())
        rest = [ast.unparse(node) for node in tree.body[1:]]
        expected = ["import bitlite.workflow.environment"] if path.parent.name == "bitlite" else []
        assert ast.get_docstring(tree) and rest == expected, path


def test_every_module_is_run_by_a_stage():
    used = set().union(*map(needed, STAGES))
    paths = (path for folder in ("bitlite", "stages") for path in (ROOT / folder).rglob("*.py"))
    modules = {str(path.relative_to(ROOT)) for path in paths}
    assert modules - used == set()


def test_pretraining_is_frozen_and_names_no_code():
    for name, stage in PRETRAINING.items():
        assert stage["frozen"], name
        assert code(stage) == set(), name


@pytest.mark.parametrize(("stages", "directory"), [(STAGES, ROOT), (PRETRAINING, ROOT / "pretrain")])
def test_deps_exist_or_are_written_by_a_stage(stages, directory):
    for name, stage in stages.items():
        for dep in stage.get("deps", []):
            tracked = (directory / dep).exists() and not dep.startswith(("data/", "models/", "metrics/", "plots/"))
            assert tracked or writers(dep, stages), f"{name}: {dep}"


def test_every_stage_comes_after_the_check_of_params():
    first = {name for name, stage in STAGES.items() if not any(writers(dep, STAGES) for dep in stage["deps"])}
    assert first == {"params"}
    assert "params.yaml" in STAGES["params"]["deps"]


def test_all_training_comes_after_the_check_of_what_can_be():
    assert "data/.checked" in STAGES["finetune"]["deps"] and "models/finetuned" in STAGES["prune"]["deps"]
    assert {"params.yaml", "data/dataset", "models/backbone"} <= set(STAGES["check"]["deps"])


def test_outputs_do_not_persist():
    # DVC's run cache leaves out a stage that has one which does.
    for name, stage in {**STAGES, **PRETRAINING}.items():
        assert not any(options.get("persist") for options in outputs(stage).values()), name


def test_every_stage_says_what_it_does():
    for name, stage in {**STAGES, **PRETRAINING}.items():
        assert stage.get("desc", "").strip(), name


def test_no_dep_is_named_twice():
    for name, stage in {**STAGES, **PRETRAINING}.items():
        assert len(set(stage.get("deps", []))) == len(stage.get("deps", [])), name


def test_outputs_that_depend_on_libraries_depend_on_their_versions():
    without = {name for name, stage in STAGES.items() if "requirements.txt" not in stage["deps"]}
    assert without == {"params", "check", "download@backbone", "machine"}


def test_the_embedded_backbone_is_a_dep():
    assert "pretrain/bit-tiny.npz" in STAGES["download@backbone"]["deps"]


def test_optional_tools_are_pinned_and_fit_the_others():
    pinned, where, sweep = (requirements(f"requirements{which}.txt") for which in ("", "-where", "-sweep"))
    assert where.keys() >= {"ethos-u-vela", "tflite-micro"}
    assert sweep.keys() >= {"ray", "optuna"}
    assert not pinned.keys() & {"ethos-u-vela", "tflite-micro", "ray", "optuna"}
    for optional in (where, sweep):
        for name in pinned.keys() & optional.keys():
            assert optional[name] == pinned[name], name


def requirements(name: str) -> dict[str, set[str]]:
    """The versions that a file of pinned packages asks for; several where platforms differ."""
    found = {}
    for package, version in re.findall(r"^([\w-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


def test_an_experiment_keeps_the_comments_of_params(tmp_path):
    """`dvc exp run -S` writes the file by this function of DVC's."""
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    apply_overrides(file, ["pruning.channels.keep=0.25"])

    def comments(path: Path) -> list[str]:
        return [line.strip() for line in path.read_text().splitlines() if line.strip().startswith("#")]

    assert comments(file) == comments(ROOT / "params.yaml")
    assert "keep: 0.25" in file.read_text()


@pytest.mark.parametrize(
    ("path", "way_out"), [("dvc.lock", "git checkout dvc.lock"), (".dvc/tmp/rwlock", "rm .dvc/tmp/rwlock")]
)
def test_make_says_the_way_out_of_files_that_a_killed_dvc_leaves_cut_short(tmp_path, path, way_out):
    shutil.copy(ROOT / "Makefile", tmp_path)

    def make():
        return subprocess.run(["make", "--silent", "unharmed"], cwd=tmp_path, capture_output=True, text=True)

    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    assert (make().returncode, make().stderr) == (0, "")
    file.write_text("something\n")
    assert make().returncode == 0
    for left in ("", "someth")[: 2 if path == "dvc.lock" else 1]:  # DVC writes rwlock at once
        file.write_text(left)
        assert make().returncode
        assert f"{path} is cut short, as a DVC that was killed leaves it: {way_out}\n" in make().stderr
