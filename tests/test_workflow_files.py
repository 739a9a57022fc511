"""dvc.yaml against the files of the project: a stage's deps name what its code imports, since DVC does not look."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# What stages write, and so what is missing from a fresh clone.
WRITTEN = ("data/", "models/", "metrics/", "plots/", "report.html", "restart/models/")
# The stage `download` runs one branch of its code in each of its two instances.
OWN_PACKAGE = {"download@dataset": "stages/images/", "download@backbone": "stages/bit/"}


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


def program(stage: dict, directory: str = "") -> str:
    """The file that a stage's command runs."""
    if module := re.search(r"\bpython -m (stages\.\w+)", stage["cmd"]):
        return module[1].replace(".", "/") + ".py"
    return directory + re.search(r"\bpython (\w+\.py)", stage["cmd"])[1]


def module_files(module: str) -> list[str]:
    """Files that Python runs to import `module`: those of the packages on the way, and its own if there is one."""
    parts = module.split(".")
    packages = ["/".join(parts[: end + 1]) + "/__init__.py" for end in range(len(parts))]
    return [file for file in (*packages, "/".join(parts) + ".py") if (ROOT / file).is_file()]


def imported_modules(node: ast.AST) -> Iterator[str]:
    """What an import statement may name: `from a import b` runs the module a, and a.b if that is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not followed"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def direct_imports(file: str, *, only_at_top: bool = False) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    nodes = tree.body if only_at_top else ast.walk(tree)
    return {found for node in nodes for module in imported_modules(node) for found in module_files(module)}


def needed(files: set[str]) -> set[str]:
    """`files` and all files of the project that they import, directly or not."""
    found, new = set(), set(files)
    while new:
        found |= new
        new = {file for known in new for file in direct_imports(known)} - found
    return found


def needed_by_program(file: str) -> set[str]:
    return needed({file, *module_files(file.removesuffix(".py").replace("/", "."))})


def missing(needs: set[str], deps: list[str]) -> list[str]:
    return sorted(needs - set(deps))


def test_imports_are_followed():
    # A module that is imported from; one imported in a function, and what that imports; files of packages on the way.
    assert needed_by_program("stages/prune.py") >= {
        "stages/prune.py", "stages/params.py", "stages/artifacts.py", "stages/finetune.py", "stages/bit/training.py",
        "stages/bit/hyperrule.py", "stages/__init__.py", "stages/images/__init__.py",
    }  # fmt: skip
    assert not any(file.startswith("stages/tflite/") for file in needed_by_program("stages/finetune.py"))
    assert needed_by_program("stages/params.py") == {"stages/__init__.py", "stages/params.py"}


@pytest.mark.parametrize("name", [name for name in STAGES if name not in OWN_PACKAGE])
def test_deps_name_what_the_stage_imports(name):
    assert missing(needed_by_program(program(STAGES[name])), STAGES[name]["deps"]) == []


def test_deps_of_the_downloads_name_what_both_import():
    deps = [dep for name in OWN_PACKAGE for dep in STAGES[name]["deps"]]
    assert missing(needed_by_program("stages/download.py"), deps) == []


@pytest.mark.parametrize("name", OWN_PACKAGE)
def test_deps_of_a_download_name_what_its_branch_imports(name):
    file = program(STAGES[name])
    own = {found for found in direct_imports(file) if found.startswith(OWN_PACKAGE[name])}
    assert own
    always = direct_imports(file, only_at_top=True)
    assert missing({file} | needed(always | own), STAGES[name]["deps"]) == []


@pytest.mark.parametrize("name", PRETRAINING)
def test_deps_of_pretraining_name_what_the_stage_imports(name):
    file = program(PRETRAINING[name], "pretrain/")
    needs = {"export.py" if found == "pretrain/export.py" else f"../{found}" for found in needed_by_program(file)}
    if part := re.search(r"stages\.download (\w+)", PRETRAINING[name]["cmd"]):
        other = {"dataset": "../stages/bit/", "backbone": "../stages/images/"}[part[1]]
        needs = {found for found in needs if not found.startswith(other)}
    assert missing(needs, PRETRAINING[name]["deps"]) == []


@pytest.mark.parametrize(("stages", "directory"), [(STAGES, ROOT), (PRETRAINING, ROOT / "pretrain")])
def test_deps_exist_or_are_written_by_a_stage(stages, directory):
    written = [
        next(iter(out)) if isinstance(out, dict) else out
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    for stage in stages.values():
        for dep in stage["deps"]:
            if dep.startswith(WRITTEN):
                # A folder may hold what several stages write.
                assert any(out == dep or out.startswith(f"{dep}/") for out in written), dep
            else:
                assert (directory / dep).is_file(), dep


def test_every_stage_says_what_it_does():
    for name, stage in {**STAGES, **PRETRAINING}.items():
        assert stage.get("desc", "").strip(), name


def test_no_dep_is_named_twice():
    for name, stage in {**STAGES, **PRETRAINING}.items():
        assert len(set(stage["deps"])) == len(stage["deps"]), name


def test_outputs_that_depend_on_libraries_depend_on_their_versions():
    without = {name for name, stage in STAGES.items() if "requirements.txt" not in stage["deps"]}
    assert without == {"download@backbone"}


def test_the_embedded_backbone_is_a_dep():
    assert "pretrain/bit-tiny.npz" in STAGES["download@backbone"]["deps"]


def test_report_depends_on_its_templates():
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "stages" / "report").glob("*.j2")}
    assert templates and missing(templates, STAGES["compare"]["deps"]) == []


def test_every_module_of_the_workflow_is_run_by_a_stage():
    used = set.union(*(needed_by_program(program(stage)) for stage in STAGES.values()))
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "stages").rglob("*.py")}
    assert modules - used == set()
