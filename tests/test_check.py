"""What params.yaml asks for against data set and backbone: told before anything is trained."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from bitlite.bit.shapes import BIT_TINY, published
from bitlite.bit.weights import untrained
from bitlite.images import dataset
from bitlite.training import limits
from bitlite.workflow.errors import InputError
from stages import check

ROOT = Path(__file__).parents[1]
LABELS = ("ant", "bee", "cat")
TRAIN = 9
PARAMS = {
    "dataset": {"name": "insects"},
    "backbone": {"name": "small"},
    "finetune": {"steps": 2, "batch_size": 8, "image_size": 32, "resize": 32},
    "pruning": {"dense": {"method": "none"}},
    "quantization": {"float32": {"scheme": "float32"}},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a data set of a few images, and bit-tiny with random weights."""
    directory = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, "png")
        images = [(encoded.getvalue(), label % 3) for label in range(TRAIN)]
        dataset.write(dataset.DATASET, LABELS, {split: images for split in dataset.SPLITS})
        untrained("small", BIT_TINY, seed=0).save(Path("models/backbone"))
    return directory


@pytest.fixture
def told(prepared, monkeypatch, capsys):
    """A function of changes to PARAMS, by section: what the check says, or nothing if all is well."""
    monkeypatch.chdir(prepared)

    def ask(**changes) -> str:
        Path("data/.checked").unlink(missing_ok=True)
        params = {section: {**keys, **changes.get(section, {})} for section, keys in PARAMS.items()}
        YAML().dump(params, Path("params.yaml"))
        try:
            check.main()
        except InputError as error:
            assert not Path("data/.checked").exists()
            assert len(str(error).splitlines()) == 1
            return str(error)
        assert Path("data/.checked").exists()
        return capsys.readouterr().out

    return ask


def combine(*parts):
    return {"method": "combine", "parts": list(parts)}


UNITS, KEEP = {"method": "units"}, {"method": "channels", "keep": 0.5}
LAST = "resnet/block3/unit04/*"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (KEEP, ""),
        ({"method": "channels", "keep": 0.02}, "pruning.new.keep is 0.02, which leaves none of the 16 groups of "),
        ({"method": "channels", "target_macs": 0.01}, "pruning.new.target_macs is 0.01, but channels"),
        ({"method": "channels", "target_parameters": 0.05}, "pruning.new.target_parameters is 0.05, but channels"),
        ({"method": "channels", "target_latency": 0.01}, "pruning.new.target_latency is 0.01, but channels"),
        (KEEP | {"rounds": 8}, ""),
        (KEEP | {"rounds": 9}, "pruning.new.rounds is 9: so few channels go that round 5 would take none"),
        (KEEP | {"keep": 0.02, "rounds": 2}, "pruning.new.keep is 0.02, which leaves none of the 16 groups of "),
        ({"method": "channels", "target_macs": 0.5, "rounds": 3}, ""),
        ({"method": "channels", "target_macs": 0.01, "rounds": 3}, "pruning.new.target_macs is 0.01, but channels"),
        ({"method": "channels", "target_macs": 0.9, "rounds": 40}, "pruning.new.rounds is 40: so few channels go"),
        ({"method": "channels", "target_latency": 0.01, "rounds": 2}, "pruning.new.target_latency is 0.01, but chan"),
        (combine(UNITS, KEEP | {"rounds": 99}), "pruning.new.parts[1].rounds is 99: so few channels go that round "),
        ({"method": "units", "remove": 4}, ""),
        ({"method": "units", "remove": 5}, "pruning.new.remove is 5, but only 4 units have an identity shortcut"),
        ({"method": "magnitude", "layers": ["resnet/block2/*"]}, ""),
        ({"method": "magnitude", "layers": ["resnet/block4/*"]}, "pruning.new.layers has 'resnet/block4/*', which"),
        ({"method": "n_m", "zeros": 2, "of": 4}, ""),
        ({"method": "n_m", "zeros": 2, "of": 5}, "pruning.new.of is 5: 2 of 5 weights can't be zero in resnet/blo"),
        ({"method": "n_m", "layers": ["resnet/root*"]}, "pruning.new.of is 4: 2 of 4 weights can't be zero in resnet/"),
        ({"method": "norm_free"}, ""),
        ({"method": "norm_free", "norms": "auto", "target_norms": 0.9}, ""),
        ({"method": "norm_free", "norms": "auto", "target_norms": 0.1}, "pruning.new.target_norms is 0.1, but with"),
        ({"method": "quantize", "weights": 4}, ""),
        (combine(KEEP, {"method": "quantize"}), ""),
        # Each part is of the BiT that the parts before it leave.
        (combine(UNITS, {"method": "norm_free"}), ""),
        (combine({"method": "norm_free"}, {"method": "norm_free"}), "pruning.new.parts[1].norms is all, but the parts"),
        (combine(KEEP, {"method": "n_m", "zeros": 2, "of": 4}), ""),
        (
            combine({"method": "channels", "keep": 0.44}, {"method": "n_m", "zeros": 2, "of": 4}),
            "pruning.new.parts[1].of is 4: 2 of 4 weights can't be zero in resnet/block1/unit01/b/standardized_conv2d, "
            "which has 14 inputs",
        ),
        (combine(KEEP, {"method": "channels", "keep": 0.05}), "pruning.new.parts[1].keep is 0.05, which leaves"),
        (combine(UNITS, {"method": "units", "remove": 4}), "pruning.new.parts[1].remove is 4, but only 3"),
        (combine(UNITS, {"method": "magnitude", "layers": ["resnet/block3/*"]}), ""),
        (combine(UNITS, {"method": "magnitude", "layers": [LAST]}), f"pruning.new.parts[1].layers has '{LAST}'"),
    ],
)  # fmt: skip
def test_pruning_that_can_not_be_is_told(told, entry, expected):
    said = told(pruning={"dense": {"method": "none"}, "new": entry})
    assert said.startswith(expected) and bool(said) == bool(expected)


def test_layers_that_pruning_may_remove_can_not_stay_float(told):
    mixed = {"mixed": {"scheme": "int8_mixed", "calibration_images": 9, "keep_float": [LAST]}}
    assert told(quantization=mixed) == ""
    assert told(quantization=mixed, pruning={"dense": {"method": "none"}, "shallow": UNITS}).startswith(
        f"quantization.mixed.keep_float has '{LAST}', which matches none of the convolutions that shallow is sure to"
    )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"scheme": "int8", "calibration_images": 9}, ""),
        ({"scheme": "int8", "calibration_images": 256}, "quantization.new.calibration_images is 256: all 9 training"),
        ({"scheme": "int16x8", "calibration_images": 2}, "quantization.new.calibration_images is 2: one image each"),
        ({"scheme": "mixed", "calibration_images": 9}, ""),
        ({"scheme": "int8_mixed", "keep_float": ["no/*"]}, "quantization.new.keep_float has 'no/*', which matches"),
    ],
)  # fmt: skip
def test_quantization_that_can_not_be_or_has_too_few_images_is_told(told, entry, expected):
    said = told(quantization={"float32": {"scheme": "float32"}, "new": entry})
    assert said.startswith(expected) and bool(said) == bool(expected)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"batch_split": 4}, ""),
        ({"batch_split": 3}, "finetune.batch_size is 8, which 1 devices and a batch_split of 3 don't divide"),
        ({"padding": 31}, ""),
        ({"padding": 32}, "finetune.padding is 32: crops of 32 px may hold no pixel of the image"),
        ({"weight_decay": 10.0, "learning_rate": 0.09}, ""),
        ({"weight_decay": 10.0, "learning_rate": 0.1}, "finetune.learning_rate is 0.1: times finetune.weight_d"),
    ],
)  # fmt: skip
def test_training_that_can_not_be_is_told(told, keys, expected):
    said = told(finetune={**PARAMS["finetune"], **keys})
    assert said.startswith(expected) and bool(said) == bool(expected)


def test_recovery_that_can_not_be_is_told(told):
    magnitude = {"method": "magnitude", "batch_size": 30, "steps": 1}
    said = told(
        finetune={**PARAMS["finetune"], "batch_split": 4}, pruning={"dense": {"method": "none"}, "m": magnitude}
    )
    assert said == "pruning.m.batch_size is 30, which 1 devices and a batch_split of 4 don't divide"
    decay = {**PARAMS["finetune"], "weight_decay": 500.0, "learning_rate": 0.001}
    assert told(finetune=decay, pruning={"dense": {"method": "none"}, "both": combine(KEEP, magnitude)}).startswith(
        "pruning.both.parts[0].learning_rate is 0.003: times finetune.weight_decay, 500, "
    )


def test_image_size_too_small_for_the_backbone_is_told(told, prepared):
    untrained("r50", published("r50x1"), seed=0).save(Path("models/large/backbone"))
    Path("models/backbone").rename("models/tiny")
    Path("models/large/backbone").rename("models/backbone")
    try:
        assert told(finetune={**PARAMS["finetune"], "image_size": 31}).startswith(
            "finetune.image_size is 31: r50 needs at least 32, "
        )
        assert told() == ""
    finally:
        Path("models/backbone").rename("models/large/backbone")
        Path("models/tiny").rename("models/backbone")


def test_side_for_which_the_last_block_has_one_pixel():
    for shape, side in ((BIT_TINY, 8), (published("r50x1"), 32)):
        for size, last in ((side, 1), (side + 1, 2)):
            bit = untrained("some", shape, seed=0).with_head(LABELS, (size, size))
            assert bit.stride == side and bit.convolutions[-2].size == (last, last)


# Memory


def test_a_batch_that_memory_can_not_hold_is_told(told, monkeypatch):
    monkeypatch.setattr(limits, "gpu_memory", lambda: 0)
    monkeypatch.setattr(limits, "host_memory", lambda: 4 * 10**9)
    large = {**PARAMS["finetune"], "batch_size": 4096, "batch_split": 1}
    assert told(finetune=large) == (
        "finetune.batch_size is 4096: a step on 4096 images of 32 px at a time takes some 10 GB of memory, and there "
        "are 4; try finetune.batch_split: auto"
    )
    assert told(finetune={**large, "batch_split": 4}) == ""
    assert told(finetune={**large, "batch_split": "auto"}) == ""
    assert told(finetune={**large, "steps": 0}) == ""
    recovery = {"method": "magnitude", "batch_size": 4096}
    assert told(finetune={**large, "batch_size": 8}, pruning={"dense": {"method": "none"}, "m": recovery}).startswith(
        "pruning.m.batch_size is 4096: "
    )
    monkeypatch.setattr(limits, "host_memory", lambda: 8 * 10**9)
    assert told(finetune=large).startswith("finetune.batch_size is 4096: ")
    assert told(finetune={**large, "trainable": "head"}) == ""
    monkeypatch.setattr(limits, "gpu_memory", lambda: 16 * 10**9)
    assert told(finetune=large) == ""


def test_a_batch_whose_pixels_memory_can_not_hold_is_told(told, monkeypatch):
    """However it is split: 10^6 images of 32 x 32 pixels of 12 bytes, three times, are 36.9 GB."""
    monkeypatch.setattr(limits, "host_memory", lambda: 36 * 10**9)
    large = {**PARAMS["finetune"], "batch_size": 10**6, "image_size": 32, "batch_split": "auto"}
    assert told(finetune=large) == (
        "finetune.batch_size is 1000000: the pixels of 3 batches of 32 px, which are in memory at once, take some "
        "37 GB, and there are 36"
    )
    monkeypatch.setattr(limits, "host_memory", lambda: 37 * 10**9)
    assert told(finetune=large) == ""


def test_parts_are_the_fewest_that_leave_room():
    outputs, weights = 10**6, 10**6
    memory = {images: limits.bytes_needed(images, outputs, weights) / limits.ROOM for images in (1, 8, 12, 24)}
    assert [limits.parts(24, outputs, weights, memory[images]) for images in (24, 12, 8, 1)] == [1, 2, 3, 24]
    assert limits.parts(24, outputs, weights, memory[12] - 1) == 3
    assert limits.parts(24, outputs, weights, 0) == 24
    assert limits.parts(7, outputs, weights, limits.bytes_needed(6, outputs, weights) / limits.ROOM) == 7


def test_memory_is_what_a_container_may_take(tmp_path, monkeypatch):
    machine = limits.host_memory()
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert machine == pytest.approx(int(total.split()[1]) * 1024, rel=0.01) or machine < int(total.split()[1]) * 1024
    monkeypatch.setattr(limits, "_limits", lambda: iter([123456789, 2**62]))
    assert limits.host_memory() == 123456789
    monkeypatch.setattr(limits, "_limits", lambda: iter([]))
    assert limits.host_memory() >= machine


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # A container, which sees its own group alone; of version 1 it is told the host's path.
        ("0::/\n", {"memory.max": "1000\n"}, [1000]),
        ("5:cpu,cpuacct:/\n4:memory:/docker/1f\n0::/\n", {"memory/memory.limit_in_bytes": "1000\n"}, [1000]),
        # A job of Slurm or systemd, in a group within one that is limited too.
        (
            "0::/slurm/job_1/step_0\n",
            {
                "slurm/job_1/step_0/memory.max": "max\n",
                "slurm/job_1/memory.max": "1000\n",
                "slurm/memory.max": "2000\n",
            },
            [1000, 2000],
        ),
        ("4:memory:/a:b c\n", {"memory/a:b c/memory.limit_in_bytes": "1000\n"}, [1000]),
        ("0::/\n", {}, []),
        (None, {"memory.max": "1000\n"}, []),
    ],
)
def test_limits_are_those_of_all_groups_around_a_process(tmp_path, own, files, expected):
    if own is not None:
        (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / "cgroups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroups" / name).write_text(content)
    assert list(limits._limits(tmp_path / "own", tmp_path / "cgroups")) == expected


@pytest.mark.parametrize(("says", "expected"), [("40960\\n16384\\n", 16384 * 2**20), ("No devices were found\\n", 0)])
def test_memory_of_gpus_is_that_of_the_smallest(tmp_path, monkeypatch, says, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert limits.gpu_memory() == expected
    program.unlink()
    assert limits.gpu_memory() == 0


def test_the_estimate_is_near_what_a_step_takes():
    """Peak memory of a step on 1,024 images in a process of its own, with optimizer and all."""
    code = """if True:
        from pathlib import Path
        import numpy as np
        from bitlite.bit import network
        from bitlite.bit.shapes import BIT_TINY
        from bitlite.bit.weights import untrained
        from bitlite.training.recipe import Recipe
        from bitlite.training.step import training_step

        model = network.build(untrained("tiny", BIT_TINY, seed=0).with_head(("a", "b"), (32, 32)))
        recipe = Recipe(2, 1024, 0.01, resize=32, image_size=32, warmup=0, decays=(), batch_split=1)
        step, _ = training_step(model, recipe)
        for _ in range(2):
            step(np.ones((1024, 32, 32, 3), np.float32), np.full((1024, 2), 0.5, np.float32), 0.0)
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    """
    if "VmHWM" not in Path("/proc/self/status").read_text():
        pytest.skip("this /proc has no VmHWM")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    bit = untrained("tiny", BIT_TINY, seed=0).with_head(("a", "b"), (32, 32))
    outputs = limits.kept_outputs((each.outputs, True) for each in bit.convolutions)
    assert limits.bytes_needed(1024, outputs, bit.parameters) == pytest.approx(int(done.stdout.split()[-1]), rel=0.3)


def test_a_keras_model_keeps_what_its_bit_says():
    from bitlite.bit import network

    bit = untrained("tiny", BIT_TINY, seed=0).with_head(LABELS, (32, 32))
    layers = [layer for layer in network.build(bit).layers if hasattr(layer, "kernel")]
    assert sum(int(np.prod(layer.output_shape[1:])) for layer in layers) == sum(
        each.outputs for each in bit.convolutions
    )


def test_the_check_needs_no_tensorflow(prepared):
    Path(prepared, "params.yaml").write_text((ROOT / "params.yaml").read_text())
    code = "import sys; from stages import check; check.main(); sys.exit('tensorflow' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=prepared, env={"PYTHONPATH": str(ROOT)}, check=False
        ).returncode
        == 0
    )
