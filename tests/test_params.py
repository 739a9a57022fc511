import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitlite.workflow import params
from bitlite.workflow.command import GO_ON
from bitlite.workflow.errors import InputError

ROOT = Path(__file__).parents[1]
NAN, INFINITY = float("nan"), float("inf")
NUMBER, INTEGER = "a valid number", "a valid integer"
AUTO = "'auto', or Input should be "
PRUNINGS, QUANTIZATIONS = ("dense", "magnitude", "channels", "lean"), ("float32", "float16", "dynamic", "int8")
VARIANTS = [f"{p}-{q}" for p in PRUNINGS for q in QUANTIZATIONS]


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """The committed content, to be changed; the working directory is an empty one."""
    monkeypatch.chdir(tmp_path)
    return YAML(typ="safe", pure=True).load(ROOT / "params.yaml")


def write(content):
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(content, Path("params.yaml"))


def change(content, key, value):
    *path, last = key.split(".")
    for part in path:
        content = content[part]
    content[last] = value


def refusal(capsys):
    """What `load` raises: one line."""
    before = list(Path().rglob("*"))
    with pytest.raises(InputError) as error:
        params.load()
    assert len(str(error.value).splitlines()) == 1
    assert capsys.readouterr() == ("", "")
    assert list(Path().rglob("*")) == before
    return str(error.value)


def test_committed_file_asks_for_sixteen_variants():
    assert params.load(ROOT / "params.yaml").variants == VARIANTS


def test_values_arrive(committed):
    change(committed, "pruning.channels.keep", 0.25)
    change(committed, "finetune.steps", "auto")
    change(committed, "quantization", {"int8": {"scheme": "int8"}})
    change(committed, "compare.baseline", "dense-int8")
    write(committed)
    loaded = params.load()
    assert loaded.pruning["channels"].keep == 0.25
    assert loaded.finetune.steps == "auto"
    assert loaded.variants == [f"{pruning}-int8" for pruning in PRUNINGS]


def test_bounds_that_are_allowed(committed):
    allowed = {
        "finetune.steps": 0, "finetune.mixup": 0, "pruning.magnitude.sparsity": 0, "pruning.magnitude.steps": 0,
        "pruning.channels.keep": 1, "pruning.channels.distillation": 1, "compare.max_accuracy_drop": 1,
        "benchmark.warmup_runs": 0, "finetune.resize": 32, "where.images": 0,
    }  # fmt: skip
    for key, value in allowed.items():
        change(committed, key, value)
    write(committed)
    assert params.load().pruning["magnitude"].sparsity == 0


def test_numbers_are_those_of_yaml_1_2(committed):
    change(committed, "finetune.learning_rate", "RATE")
    change(committed, "finetune.flip", "FLIP")
    write(committed)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("RATE", "1e-3").replace("FLIP", "true"))
    assert params.load().finetune.learning_rate == 0.001
    # YAML 1.1 reads `on` as true.
    Path("params.yaml").write_text(text.replace("RATE", "0.1").replace("FLIP", "on"))
    with pytest.raises(InputError, match="finetune.flip is 'on': Input should be a valid boolean"):
        params.load()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**31, "less than 2147483648"),
        ("seed", True, INTEGER),
        ("seed", 1.0, INTEGER),
        ("dataset.name", "", "at least 1 character"),
        ("dataset.name", [5], "a valid string"),
        ("dataset.validation", 0, "greater than 0"),
        ("dataset.validation", NAN, "less than 1"),
        ("dataset.test", 1, "less than 1"),
        ("dataset.test", True, NUMBER),
        ("dataset.background", "whitish", "unknown color specifier"),
        ("dataset.background", "#ffffff00", "is not transparent itself"),
        ("dataset.group", "(", "no regular expression"),
        ("dataset.group", "(.*)_(.*)", "one pair of parentheses"),
        ("dataset.group", "", "at least 1 character"),
        ("backbone.name", None, "a valid string"),
        ("backbone.source", "http://host/a\n.npz", "control characters"),
        ("backbone.source", "a\0.npz", "control characters"),
        ("finetune.trainable", "none", "'all', 'head' or 'last_block'"),
        ("finetune.steps", -1, AUTO + "greater than or equal to 0"),
        ("finetune.steps", 1.5, AUTO + INTEGER),
        ("finetune.steps", "many", AUTO + INTEGER),
        ("finetune.steps", True, AUTO + INTEGER),
        ("finetune.batch_size", 0, AUTO + "greater than or equal to 1"),
        ("finetune.learning_rate", 0, AUTO + "greater than 0"),
        ("finetune.learning_rate", NAN, AUTO + "a finite number"),
        ("finetune.learning_rate", INFINITY, AUTO + "a finite number"),
        ("finetune.learning_rate", True, AUTO + NUMBER),
        ("finetune.learning_rate", "0.1", AUTO + NUMBER),
        ("finetune.learning_rate_schedule", "linear", "'hyperrule', 'cosine' or 'constant'"),
        ("finetune.learning_rate_schedule", None, "'hyperrule', 'cosine' or 'constant'"),
        ("finetune.padding", -1, "greater than or equal to 0"),
        ("finetune.padding", 10**9, "less than or equal to 2048"),
        ("finetune.padding", 1.5, INTEGER),
        ("finetune.padding", "auto", INTEGER),
        ("finetune.image_size", 7, AUTO + "greater than or equal to 8"),
        ("finetune.resize", 2049, AUTO + "less than or equal to 2048"),
        ("finetune.mixup", NAN, AUTO + "less than or equal to 1"),
        ("finetune.mixup", -0.1, AUTO + "greater than or equal to 0"),
        ("finetune.flip", 1, "a valid boolean"),
        ("finetune.weight_decay", -1, "greater than or equal to 0"),
        ("finetune.weight_decay", INFINITY, "a finite number"),
        ("pruning.magnitude.sparsity", 1, "less than 1"),
        ("pruning.magnitude.sparsity", NAN, "less than 1"),
        ("pruning.magnitude.sparsity", True, NUMBER),
        ("pruning.magnitude.steps", "some", AUTO + INTEGER),
        ("pruning.magnitude.distillation", 1.1, "less than or equal to 1"),
        ("pruning.channels.keep", 0, "greater than 0"),
        ("pruning.channels.keep", 1.1, "less than or equal to 1"),
        ("pruning.channels.temperature", 0, "greater than or equal to 0.01"),
        ("pruning.channels.temperature", 1e155, "less than or equal to 1000"),
        ("pruning.channels.temperature", NAN, "less than or equal to 1000"),
        ("pruning.channels.rounds", 10**12, "less than or equal to 100"),
        ("pruning.channels", "channels", "a valid dictionary"),
        ("where.images", -1, "greater than or equal to 0"),
        ("where.npu.accelerator", "ethos-u55-100", "'ethos-u55-128', 'ethos-u55-256'"),
        ("quantization.int8.calibration_images", 0, "greater than or equal to 1"),
        ("quantization.int8.calibration_images", True, INTEGER),
        ("quantization.int8.calibration_seed", -1, "greater than or equal to 0"),
        ("quantization.int8.calibration_balanced", 1, "a valid boolean"),
        ("benchmark.threads", 0, "greater than or equal to 1"),
        ("benchmark.threads", 257, "less than or equal to 256"),
        ("benchmark.runs", 0, "greater than or equal to 1"),
        ("benchmark.runs", 10**12, "less than or equal to 1000000"),
        ("benchmark.warmup_runs", 10**12, "less than or equal to 1000000"),
        ("compare.max_accuracy_drop", -0.01, "greater than or equal to 0"),
        ("compare.max_accuracy_drop", NAN, "less than or equal to 1"),
        ("compare.min_accuracy", 98, "less than or equal to 1"),
        ("compare.max_size_bytes", 0, "greater than or equal to 1"),
        ("compare.max_latency_ms", 0, "greater than 0"),
        ("compare.max_memory_mb", float("inf"), "finite"),
        ("compare.objective", "speed", "'size', 'latency' or 'accuracy'"),
    ],
)
def test_bad_value(committed, capsys, key, value, allowed):
    change(committed, key, value)
    write(committed)
    message = refusal(capsys)
    assert message.startswith(f"params.yaml: {key} is {value!r}: ")
    assert allowed in message


@pytest.mark.parametrize(
    ("npu", "told"),
    [
        ({"system_config": "Ethos_U65_High_End"}, "system_config Ethos_U65_High_End is no system of an ethos-u55"),
        (
            {"memory_mode": "Dedicated_Sram"},
            "memory_mode Dedicated_Sram needs a system with DRAM, Ethos_U55_High_End_Embedded has none",
        ),
    ],
)
def test_npus_that_there_are_not(committed, capsys, npu, told):
    committed["where"]["npu"] |= npu
    write(committed)
    assert refusal(capsys) == f"params.yaml: where.npu: {told}"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("colour", "params.yaml: unknown key 'colour'; allowed: seed, dataset, backbone, "),
        ("dataset.path", "params.yaml: dataset: unknown key 'path'; allowed: name, data_dir, validation, test"),
        ("finetune.batch_sise", "params.yaml: finetune: unknown key 'batch_sise'; allowed: trainable, steps, "),
        ("pruning.dense.sparsity", "params.yaml: pruning.dense: unknown key 'sparsity'; allowed: method"),
        ("pruning.channels.sparsity", "params.yaml: pruning.channels: unknown key 'sparsity'; allowed: steps, "),
        ("quantization.float16.calibration_images", "quantization.float16: unknown key 'calibration_images'; allowed"),
        ("benchmark.thread", "params.yaml: benchmark: unknown key 'thread'; allowed: threads, warmup_runs, runs"),
        ("compare.base", "params.yaml: compare: unknown key 'base'; allowed: baseline, "),
    ],
)
def test_unknown_key(committed, capsys, key, message):
    change(committed, key, 1)
    write(committed)
    assert message in refusal(capsys)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("pruning.magnitude.method", "magnitud", ("none", "magnitude", "channels")),
        ("quantization.int8.scheme", "int-8", ("float32", "float16", "dynamic", "int8")),
    ],
)
def test_misspelt_choice(committed, capsys, key, value, allowed):
    change(committed, key, value)
    write(committed)
    message = refusal(capsys)
    section, choice = key.rsplit(".", 1)
    for told in (section, choice, repr(value), *map(repr, allowed)):
        assert told in message


CHANNELS, MAGNITUDE = {"method": "channels", "keep": 0.5}, {"method": "magnitude", "sparsity": 0.5}


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "n_m"},
        {"method": "units", "remove": 2},
        {"method": "channels", "target_macs": 0.5, "importance": "taylor", "scope": "all"},
        {"method": "channels", "keep": 0.5, "rounds": 4, "steps": 0, "mixup": 0.2},
        {"method": "magnitude", "layers": ["resnet/block1/*"], "schedule": "constant", "mixup": 1.0},
        {"method": "norm_free", "norms": "inner"},
        {"method": "norm_free", "norms": "auto", "target_norms": 0.5},
        {"method": "combine", "parts": [CHANNELS, {"method": "norm_free"}, MAGNITUDE]},
        {"method": "quantize", "weights": 4, "activations": "float", "distillation": 1.0},
        {"method": "combine", "parts": [CHANNELS, {"method": "n_m"}, {"method": "quantize"}]},
        {"method": "combine", "parts": [CHANNELS | {"hints": 4}, CHANNELS | {"scope": "all"}]},
    ],
)
def test_each_method_is_an_entry(committed, entry):
    committed["pruning"]["mine"] = entry
    write(committed)
    assert params.load().pruning["mine"].method == entry["method"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"method": "n_m", "zeros": 4, "of": 4}, "pruning.mine: zeros is 4, which leaves nothing of 4 weights"),
        ({"method": "channels"}, "pruning.mine: needs one of keep, target_macs, target_parameters, target_latency"),
        (
            CHANNELS | {"target_macs": 0.5},
            "needs one of keep, target_macs, target_parameters, target_latency, has keep and target_macs",
        ),
        (CHANNELS | {"rounds": 0}, "pruning.mine.rounds is 0: Input should be greater than or equal to 1"),
        (CHANNELS | {"rounds": 4, "steps": 3}, "pruning.mine: steps is 3, too few for 4 rounds; at least 4, or 0"),
        (
            CHANNELS | {"scope": "all", "hints": 4},
            "pruning.mine: hints is 4: units that `scope: all` makes narrower can't follow those of the fine-tuned",
        ),
        (
            {
                "method": "combine",
                "parts": [CHANNELS | {"scope": "all"}, {"method": "norm_free"}, MAGNITUDE | {"hints": 4}],
            },
            "pruning.mine: parts[2].hints is 4: units that `scope: all` makes narrower can't follow",
        ),
        (MAGNITUDE | {"rounds": 2}, "pruning.mine: unknown key 'rounds'; allowed: steps, batch_size, "),
        (MAGNITUDE | {"mixup": 1.5}, "pruning.mine.mixup is 1.5: Input should be 'auto', or Input should be less than"),
        ({"method": "magnitude", "layers": []}, "pruning.mine.layers is []: needs at least 1 item"),
        ({"method": "units", "remove": 0}, "pruning.mine.remove is 0: Input should be greater than or equal to 1"),
        ({"method": "norm_free", "norms": "outer"}, "pruning.mine.norms is 'outer': Input should be 'all', 'inner' or"),
        ({"method": "norm_free", "norms": "auto"}, "pruning.mine: norms: auto needs target_norms, and nothing else"),
        (
            {"method": "norm_free", "target_norms": 0.5},
            "pruning.mine: norms: auto needs target_norms, and nothing else",
        ),
        ({"method": "quantize", "weights": 6}, "pruning.mine.weights is 6: Input should be 8 or 4"),
        ({"method": "quantize", "activations": 16}, "pruning.mine.activations is 16: Input should be 8 or 'float'"),
        ({"method": "quantize", "layers": ["*"]}, "pruning.mine: unknown key 'layers'; allowed: steps, batch_size, "),
        ({"method": "combine", "parts": [CHANNELS]}, "]: needs at least 2 items"),
        (
            {"method": "combine", "parts": [CHANNELS, MAGNITUDE | {"keep": 0.5}]},
            "pruning.mine.parts[1]: unknown key 'keep'; allowed: steps, batch_size, ",
        ),
        ({"method": "magnitude", "layers": "*"}, "pruning.mine.layers is '*': must be a list"),
        (
            {"method": "combine", "parts": [{"method": "quantize"}, MAGNITUDE]},
            "pruning.mine: only the last part can be quantize: what comes after would train weights off their grid",
        ),
        (
            {"method": "combine", "parts": [MAGNITUDE, CHANNELS, {"method": "quantize"}]},
            "only the last part can be magnitude or n_m, or the one before quantize: what else comes after would",
        ),
        ({"method": "combine", "parts": [MAGNITUDE, CHANNELS]}, "only the last part can be magnitude or n_m"),
        ({"method": "combine", "parts": [CHANNELS, {"method": "none"}]}, "pruning.mine.parts"),
    ],
)
def test_methods_that_make_no_sense(committed, capsys, entry, told):
    committed["pruning"]["mine"] = entry
    write(committed)
    assert told in refusal(capsys)


@pytest.mark.parametrize(
    "entry",
    [
        {"scheme": "float16", "winograd": True, "softmax": True},
        {"scheme": "int4"},
        {"scheme": "int4", "rounding": "nearest", "calibration_images": 8},
        {"scheme": "int8", "rounding": "compensated", "ranges": "min_max"},
        {"scheme": "int8", "softmax": True},
        {"scheme": "int16x8", "calibration_images": 8, "calibration_seed": 3, "calibration_balanced": False},
        {"scheme": "int8_mixed", "softmax": True},
        {"scheme": "int8_mixed", "keep_float": ["resnet/block1/*"]},
        {"scheme": "mixed", "max_accuracy_drop": 0.0, "objective": "latency", "calibration_images": 8},
    ],
)
def test_each_scheme_is_an_entry(committed, entry):
    committed["quantization"]["mine"] = entry
    write(committed)
    found = params.load().quantization["mine"]
    assert (found.scheme, found.softmax) == (entry["scheme"], entry.get("softmax", False))


@pytest.mark.parametrize(
    ("scheme", "entry"),
    [
        ("int8_mixed", {"keep_float": "some"}),
        ("int8_mixed", {"keep_float": [1]}),
        ("int8_mixed", {"ranges": "max"}),
        ("int8_mixed", {"rounding": "up"}),
        ("mixed", {"max_accuracy_drop": 1.5}),
        ("mixed", {"objective": "accuracy"}),
    ],
)
def test_schemes_that_make_no_sense(committed, capsys, scheme, entry):
    committed["quantization"]["mine"] = {"scheme": scheme} | entry
    write(committed)
    assert f"params.yaml: quantization.mine.{next(iter(entry))}" in refusal(capsys)


@pytest.mark.parametrize("more", [{}, {"max_accuracy_drop": 0.0}])
def test_an_entry_that_leaves_the_choice_to_int8_mixed_is_told_of_mixed(committed, capsys, more):
    committed["quantization"]["mine"] = {"scheme": "int8_mixed", "keep_float": "auto"} | more
    write(committed)
    assert refusal(capsys) == (
        "params.yaml: quantization.mine: keep_float takes patterns, not auto: `scheme: mixed` chooses by "
        "max_accuracy_drop"
    )


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_schemes_without_winograd(committed, capsys, scheme):
    committed["quantization"]["mine"] = {"scheme": scheme, "winograd": True}
    write(committed)
    assert re.match("params.yaml: quantization.mine.*winograd", refusal(capsys))


@pytest.mark.parametrize(("section", "choice"), [("pruning.magnitude", "method"), ("quantization.int8", "scheme")])
def test_choice_left_out(committed, capsys, section, choice):
    top, name = section.split(".")
    del committed[top][name][choice]
    write(committed)
    assert refusal(capsys) == f"params.yaml: {section}: needs the key '{choice}'"


@pytest.mark.parametrize("section", ["pruning", "quantization"])
@pytest.mark.parametrize("name", ["Channels", "chan-nels", "chan.nels", "chan/nels", "chan nels", "kanäle", "", "a\nb"])
def test_bad_name_of_a_variant(committed, capsys, section, name):
    committed[section][name] = dict(next(iter(committed[section].values())))
    write(committed)
    message = refusal(capsys)
    for told in (f"params.yaml: {section}.", repr(name), "[a-z0-9_]"):
        assert told in message


@pytest.mark.parametrize(
    "written", ["2024", "007", "2024-05-01", "1e5", "1_000", "2024.10", "true", "0x10", "my photos", "a=b", "no", ".5"]
)
@pytest.mark.parametrize("key", ["dataset.name", "dataset.data_dir", "backbone.name", "backbone.source"])
def test_names_and_paths_are_taken_as_they_are_written(committed, key, written):
    change(committed, key, "PLACE")
    write(committed)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("PLACE", written))
    section, field = key.split(".")
    assert getattr(getattr(params.load(), section), field) == written


@pytest.mark.parametrize("key", ["dataset", "backbone", "dataset.name", "backbone.name"])
def test_missing_key(committed, capsys, key):
    *path, last = key.split(".")
    del (committed[path[0]] if path else committed)[last]
    write(committed)
    assert refusal(capsys) == f"params.yaml: {key}: Field required"


@pytest.mark.parametrize("section", ["pruning", "quantization"])
def test_no_entries(committed, capsys, section):
    committed[section] = {}
    write(committed)
    assert refusal(capsys).startswith(f"params.yaml: {section}: needs at least 1 item")


def test_baseline_is_no_variant(committed, capsys):
    change(committed, "compare.baseline", "dense-int4")
    write(committed)
    expected = f"params.yaml: compare.baseline is 'dense-int4'; allowed: {', '.join(VARIANTS)}"
    assert refusal(capsys) == expected


@pytest.mark.parametrize("image_size", [37, "auto"])
def test_crop_larger_than_what_it_is_cropped_from(committed, capsys, image_size):
    change(committed, "finetune.resize", 36)
    change(committed, "finetune.image_size", image_size)
    write(committed)
    expected = f"params.yaml: finetune: resize 36 needs an image_size of at most that, got {image_size}"
    assert refusal(capsys) == expected


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.75, 0.5)])
def test_nothing_left_to_train_on(committed, capsys, validation, test):
    committed["dataset"] |= {"validation": validation, "test": test}
    write(committed)
    assert refusal(capsys) == (
        f"params.yaml: dataset: validation + test is {validation + test:g}, which leaves nothing to train on"
    )


def test_further_wrong_keys_are_counted(committed, capsys):
    change(committed, "seed", "zero")
    change(committed, "benchmark.runs", -1)
    change(committed, "finetune.steps", "some")
    write(committed)
    message = refusal(capsys)
    assert message.startswith("params.yaml: seed is 'zero': ")
    assert message.endswith(" (and 2 more wrong keys)")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "seed: [\n",
        "seed: 1\nseed: 2\n",
        "dataset:\n\tname: x\n",
        "seed: 2024-13-45\n",
        "\0",
        b"# caf\xe9\n",
        "seed: !!bool x\n",
        "seed: !!python/object/apply:os.system [touch run]\n",
        f"seed: {'{a: ' * 500}1{'}' * 500}\n",
        f"seed: {'[' * 500}1{']' * 500}\n",
        "seed: &a [*a]\n",
        "<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> x\n",
        "seed: 1\n".encode("utf-16"),
        "seed: 1\n".encode("utf-16-le"),
        f"seed: {'9' * 5000}\n",
        "? [a]\n: 1\n",
    ],
)
def test_broken_file(committed, capsys, content):
    Path("params.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(capsys).startswith("params.yaml")


def test_values_that_stand_for_millions_are_told_in_brief(committed, capsys):
    lines = ["a: &a0 [x]", *(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 9)), "seed: *a8"]
    Path("params.yaml").write_text("\n".join(lines))
    assert len(refusal(capsys)) < 1000
    write(committed)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 0", f"seed: {'x' * 10**6}"))
    assert len(refusal(capsys)) < 1000


def test_a_pipe_is_not_waited_for(committed, capsys):
    Path("params.yaml").unlink(missing_ok=True)
    os.mkfifo("params.yaml")
    assert refusal(capsys) == "params.yaml cannot be read: it is no file"


def test_a_mark_of_utf_8_is_read_over_as_by_dvc(committed):
    write(committed)
    Path("params.yaml").write_bytes(b"\xef\xbb\xbf" + Path("params.yaml").read_bytes())
    assert params.load().variants == VARIANTS


def test_names_too_long_for_files(committed, capsys):
    committed["pruning"]["a" * 101] = {"method": "none"}
    write(committed)
    assert "at most 100 characters" in refusal(capsys)


def test_missing_file(committed, capsys):
    message = refusal(capsys)
    assert message == "params.yaml is not here: run this in the project's own folder"


@pytest.mark.parametrize("command", [["stages.params"], ["stages.download", "backbone"]])
def test_command_ends_before_any_work_with_the_key_and_how_to_go_on(committed, command):
    change(committed, "finetune.steps", -1)
    write(committed)
    done = run_module(*command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "params.yaml: finetune.steps is -1: Input should be 'auto', or Input should be greater than or equal to 0",
        GO_ON,
    ]
    assert [path.name for path in Path().rglob("*")] == ["params.yaml"]


def test_command_names_the_variants(committed):
    write(committed)
    done = run_module("stages.params")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"params.yaml asks for 16 variants: {', '.join(VARIANTS)}\n"


def run_module(*command):
    return subprocess.run(
        [sys.executable, "-m", *command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_the_examples_in_the_comments_are_valid():
    uncommented = re.sub(r"^  # (?=\w+:$|  )", "  ", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE)
    checked = params.Params.model_validate(YAML(typ="safe", pure=True).load(uncommented))
    assert {entry.method for entry in checked.pruning.values()} == {
        "none", "magnitude", "channels", "n_m", "units", "norm_free", "quantize", "combine"
    }  # fmt: skip
    assert {entry.scheme for entry in checked.quantization.values()} == {
        "float32", "float16", "dynamic", "int8", "int8_mixed", "int16x8", "int4", "mixed"
    }  # fmt: skip


def test_an_unknown_scheme_is_told_with_those_that_there_are(committed, capsys):
    committed["quantization"]["int8"]["scheme"] = "int9"
    write(committed)
    assert refusal(capsys).startswith(
        "params.yaml: quantization.int8: scheme is 'int9'; allowed: 'float32', 'float16', "
    )


def test_entries_and_variants_that_are_not_there_are_told_with_those_that_are():
    checked = params.load(ROOT / "params.yaml")
    with pytest.raises(InputError, match="no entry 'int9' under quantization; it has: float32, float16, dynamic, int8"):
        checked.entry("quantization", "int9")
    with pytest.raises(InputError, match="no variant 'dense-int9'; it asks for: dense-float32, "):
        checked.variant("dense-int9")
    assert checked.variant("dense-int8") == "dense-int8"
