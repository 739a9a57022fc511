"""A .tflite file in the places where devices run it, by real tools. A missing one skips its tests, in CI it fails them.

What a place answers is held against what the CPU gives, and against what is known of small graphs by hand.
"""

import signal
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils
from needed import missing
from test_tflite import SCHEMES, bit_of, made, norm_free, photos

from bitlite.litert import runtime
from bitlite.tflite.graph import Graph, Tensor, constant, to_file
from bitlite.where import answers, float16, gpu, micro, npu, places
from bitlite.where.answers import Unavailable
from bitlite.workflow.metrics import Places
from bitlite.workflow.params import Npu, Uncalibrated, Where

IMAGES = 4
FLOAT16_LARGEST = 65504
ENTRIES = SCHEMES | {
    f"{scheme}, winograd": Uncalibrated(scheme=scheme, winograd=True) for scheme in ("float32", "float16")
}
# Like bit-tiny, with R50's root (7x7, a pool, projections of stride 2), and that without norms.
R50 = {"units": (1, 1), "groups": 16, "root": 7, "pool": True, "size": (64, 64)}
MODELS = {
    "bit-tiny": lambda: bit_of(units=(1, 1), groups=16, size=(32, 32)),
    "r50": lambda: bit_of(**R50),
    "norm-free": lambda: norm_free(bit_of(**R50)),
}
# Of outputs on GPU, where weights are integers: the CPU rounds activations to int8, the GPU does not. Those of
# int8_mixed have one scale for all images, and so coarser steps.
DIFFERENCES = {"dynamic": 0.01, "int4": 0.01, "int8_mixed": 0.03, "mixed": 0.03, "int8": 0.03}


def tried(check, *arguments):
    """What a place answers; where this machine cannot ask it, the test skips, or fails in CI."""
    try:
        return check(*arguments)
    except Unavailable as remedy:
        missing(str(remedy))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Paths of small models by the name of the model and of the entry, made once."""
    directory = tmp_path_factory.mktemp("where")

    def path_of(entry, model="bit-tiny"):
        path = directory / f"{model}-{entry}.tflite"
        if not path.exists():
            path.write_bytes(made(ENTRIES[entry], MODELS[model]()))
        return path

    return path_of


def asked(path):
    """What a check takes: the file, images, and the CPU's outputs."""
    images = photos(IMAGES, runtime.Classifier(path).image_size)
    return path, images, runtime.logits(path, images)


def pixels_to_means(path, *, channels, then=lambda graph, means: means, gain=1.0):
    """A file that convolves pixels [8, 8, 3] and takes the means of the `channels`, and something `then`."""
    graph = Graph(Tensor("pixels", (1, 8, 8, 3)))
    kernel = gain * np.random.default_rng(0).random((1, 1, 3, channels))
    convolved = graph.convolve("convolved", graph.input, kernel)
    then(graph, graph.mean("means", convolved, [1, 2]))
    graph.reshape("outputs", graph.output, (1, channels))
    path.write_bytes(to_file(graph))
    return path, photos(IMAGES, (8, 8)), runtime.logits(path, photos(IMAGES, (8, 8)))


# GPU


def test_gpu_agrees_on_what_it_computes_rightly(tmp_path):
    found = tried(gpu.check, *pixels_to_means(tmp_path / "model", channels=16))
    assert found.pop("gpu_difference") < 1e-5
    assert found == {"gpu_agreement": 1.0, "gpu_whole": True}


def test_gpu_does_not_agree_where_the_delegate_is_known_to_be_wrong(tmp_path):
    # An activation's first dimension counts as the batch, a constant's of two dimensions as the width.
    def scaled(graph, means):
        factors = constant("factors", np.arange(16.0).reshape(2, 8))
        graph.multiply("scaled", graph.reshape("grouped", means, (2, 8)), factors)

    asked = pixels_to_means(tmp_path / "model", channels=16, then=scaled)
    found = tried(gpu.check, *asked)
    assert found["gpu_whole"] and found["gpu_difference"] > 0.1
    # The difference is that of the outputs.
    outputs = answers.ask("bitlite.where.gpu", *asked[:2]).arrays["outputs"]
    expected = np.max(np.abs(outputs - asked[2])) / np.max(np.abs(asked[2]))
    assert found["gpu_difference"] == pytest.approx(expected)


def test_gpu_that_refuses_a_file_or_dies_of_it_agrees_on_nothing(file):
    # int16 aborts the process.
    assert answers.ask("bitlite.where.gpu", *asked(file("int16x8"))[:2]).arrays is None
    assert tried(gpu.check, *asked(file("int16x8"))) == {
        "gpu_agreement": 0.0, "gpu_whole": False, "gpu_difference": None,
    }  # fmt: skip


def test_gpu_of_invalid_shaders_agrees_on_nothing(monkeypatch, tmp_path):
    path, images, expected = pixels_to_means(tmp_path / "model", channels=16)
    log = "E0000 00:00:1 2 environment.cc:105] Validation error: [Invalid ComputePipeline (unlabeled)] is invalid"
    answer = answers.Answer({"outputs": expected, "whole": np.array(True)}, log)
    monkeypatch.setattr(gpu, "ask", lambda *_: answer)
    assert gpu.check(path, images, expected)["gpu_agreement"] == 0


def test_no_gpu_is_no_pass(file, monkeypatch):
    monkeypatch.setenv("VK_DRIVER_FILES", "/dev/null")
    with pytest.raises(Unavailable, match="apt-get install chromium-common"):
        gpu.check(*asked(file("float32")))


# Float16


def test_peak_is_the_largest_sum_or_value(tmp_path):
    path, images, _ = pixels_to_means(tmp_path / "model", channels=4)
    kernel = np.random.default_rng(0).random((3, 4))
    # Means of positive values: the sum over 64 pixels is larger than any value.
    sums = (images.astype(np.float64) @ kernel).sum((1, 2))
    assert float16.peak(path, images)["float16_peak"] == pytest.approx(sums.max() / FLOAT16_LARGEST, rel=1e-4)

    def squared(graph, means):
        graph.multiply("squared", means, means)

    path, images, _ = pixels_to_means(tmp_path / "squared", channels=4, then=squared)
    assert float16.peak(path, images)["float16_peak"] == pytest.approx(
        (sums.max() / 64) ** 2 / FLOAT16_LARGEST, rel=1e-4
    )


def test_float16_agrees_within_its_range_and_not_beyond(tmp_path):
    within = pixels_to_means(tmp_path / "within", channels=4)
    assert tried(float16.check, *within) == {"float16_agreement": 1.0}
    beyond = pixels_to_means(tmp_path / "beyond", channels=4, gain=1000.0)
    assert tried(float16.check, *beyond) == {"float16_agreement": 0.0}
    assert float16.peak(*beyond[:2])["float16_peak"] > 1


@pytest.mark.parametrize("entry", ["float32", "dynamic", "int4", "int8_mixed"])
def test_a_cpu_that_does_not_compute_in_float16_is_no_pass(entry, file, monkeypatch):
    def without(module, path, images):
        with monkeypatch.context() as patch:
            patch.setattr(float16, "FORCE_FLOAT16", 0)
            return answers.Answer(float16.run(path, images), "")

    monkeypatch.setattr(float16, "ask", without)
    with pytest.raises(Unavailable):
        float16.check(*asked(file(entry)))


def test_a_process_that_is_killed_from_elsewhere_is_no_refusal(file, monkeypatch):
    def killed(*_, **__):
        return subprocess.CompletedProcess([], -signal.SIGKILL, "", "out of memory")

    monkeypatch.setattr(answers.subprocess, "run", killed)
    with pytest.raises(RuntimeError, match="out of memory"):
        answers.ask("bitlite.where.micro", *asked(file("int8"))[:2])


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_integers_have_no_float16(scheme, file):
    path, images, expected = asked(file(scheme))
    assert float16.check(path, images, expected) == {}
    assert float16.peak(path, images) == {"float16_peak": 0.0}


# TensorFlow Lite Micro


def test_micro_runs_int8_in_the_memory_that_it_tells(file):
    found = tried(micro.check, *asked(file("int8")))
    assert found["tflm_agreement"] == 1
    assert tried(micro.check, *asked(file("int8"))) == found
    from tflite_micro import runtime

    needed = found["tflm_arena_bytes"]
    runtime.Interpreter.from_file(str(file("int8")), arena_size=needed + 4096)
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_file(str(file("int8")), arena_size=needed - 4096)


@pytest.mark.parametrize("scheme", ["float16", "dynamic"])
def test_micro_refuses_what_it_has_no_kernel_for(scheme, file):
    assert tried(micro.check, *asked(file(scheme))) == {"tflm_agreement": 0.0, "tflm_arena_bytes": None}


# NPU


def test_vela_puts_int8_on_the_npu_and_float32_nowhere(file):
    found = tried(npu.check, file("int8"), Npu())
    assert found["npu_share"] == 1 and found["npu_cycles"] > 0
    small = tried(npu.check, file("int8"), Npu(accelerator="ethos-u55-32"))
    assert small["npu_cycles"] > found["npu_cycles"]
    assert tried(npu.check, file("float32"), Npu()) == {"npu_share": 0.0, "npu_cycles": None}


def test_share_counts_the_operators_of_the_file(file):
    # Of these only the convolutions, and what moves values before them, take and give integers.
    (subgraph,) = flatbuffer_utils.read_model(str(file("int8_mixed"))).subgraphs
    ends = [[subgraph.tensors[number].type for number in (o.inputs[0], o.outputs[0])] for o in subgraph.operators]
    expected = ends.count([TensorType.INT8] * 2) / len(ends)
    found = tried(npu.check, file("int8_mixed"), Npu())
    assert 0.05 < found["npu_share"] < 0.15 and found["npu_share"] == pytest.approx(expected)


def test_vela_dies_of_int4_and_that_puts_nothing_on_the_npu(file):
    for entry in ("int4", "mixed"):
        assert tried(npu.check, file(entry), Npu()) == {"npu_share": 0.0, "npu_cycles": None}


def test_vela_that_fails_is_no_refusal(tmp_path):
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="Vela failed on .*model:\n.*"):
        tried(npu.check, tmp_path / "model", Npu())


# All together


def test_places_hold_what_each_check_finds(file):
    path, images, expected = asked(file("int8"))
    found = places.check(path, images, expected, Where(images=IMAGES))
    assert isinstance(found, Places)
    assert vars(found).items() >= tried(gpu.check, path, images, expected).items()
    assert vars(found).items() >= tried(micro.check, path, images, expected).items()
    assert vars(found).items() >= tried(npu.check, path, Npu()).items()
    assert (found.float16_agreement, found.float16_peak) == (None, 0.0)
    assert found.oldest_runtime


def test_what_is_missing_is_null_and_told_once(file, monkeypatch, capsys):
    monkeypatch.setenv("VK_DRIVER_FILES", "/dev/null")
    for module in (micro, npu):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    found = vars(places.check(*asked(file("float32")), Where(images=2)))
    assert {key for key, value in found.items() if value is None} == {
        "gpu_agreement", "gpu_whole", "gpu_difference", "tflm_agreement", "tflm_arena_bytes", "npu_share", "npu_cycles",
    }  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [
        "gpu not checked: no Vulkan device; Debian's is: apt-get install chromium-common",
        "tflm and npu not checked: pip install -r requirements-where.txt",
    ]


def test_no_images_check_nothing(file, capsys):
    found = vars(places.check(*asked(file("float32")), Where(images=0)))
    assert {key for key, value in found.items() if value is not None} == {"images_tried", "npu", "oldest_runtime"}
    assert found["images_tried"] == 0
    assert capsys.readouterr() == ("", "")


def test_large_models_run_fewer_images(file, monkeypatch):
    path, images, expected = asked(file("float32"))
    seen = []
    for module, name in ((gpu, "check"), (float16, "check"), (float16, "peak"), (micro, "check")):
        monkeypatch.setattr(module, name, lambda path, images, *_: seen.append(len(images)) or {})
    for allowed, count in ((3.5, 3), (100, IMAGES), (0.5, 1)):
        monkeypatch.setattr(places, "MULTIPLY_ADDS", int(allowed * places.multiply_adds(path)))
        seen.clear()
        places.check(path, images, expected, Where(images=100))
        assert seen == [count] * 4


def test_multiply_adds_are_those_of_the_network(file):
    macs = sum(convolution.macs for convolution in bit_of(**R50).convolutions)
    assert places.multiply_adds(file("float32", "r50")) == macs


def test_a_check_that_fails_itself_is_no_refusal(tmp_path):
    with pytest.raises(RuntimeError, match=r"bitlite\.where\.micro failed on .*\n(.*\n)*.*Error"):
        answers.ask("bitlite.where.micro", tmp_path / "missing", photos(1))


def test_agreement_counts_images_and_nothing_that_is_no_number():
    expected = np.array([[3.0, 1], [0, 1], [2, 1], [2, 1]])
    outputs = np.array([[9.0, 8], [5, 1], [np.nan, 1], [np.inf, 0]])
    assert answers.agreement(outputs, expected) == 0.25


def test_checks_need_no_tensorflow():
    code = "import sys; from bitlite.where import places; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=answers.ROOT).returncode == 0


# What every scheme must show


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("entry", [name for name in ENTRIES if name != "int16x8"])
def test_files_are_right_on_gpus_and_in_float16(entry, model, file):
    path, images, expected = asked(file(entry, model))
    found = tried(gpu.check, path, images, expected)
    assert found.pop("gpu_difference") < DIFFERENCES.get(entry, 1e-3)
    assert found == {"gpu_agreement": 1.0, "gpu_whole": True}
    assert float16.peak(path, images)["float16_peak"] < 1
    assert tried(float16.check, path, images, expected) == ({} if entry == "int8" else {"float16_agreement": 1.0})


@pytest.mark.parametrize("model", MODELS)
def test_int8_runs_on_microcontrollers_and_npus(model, file):
    path, images, expected = asked(file("int8", model))
    assert tried(micro.check, path, images, expected)["tflm_agreement"] == 1
    assert tried(npu.check, path, Npu())["npu_share"] == 1


def test_an_npu_takes_fewer_cycles_without_norms(file):
    exact, without = (tried(npu.check, file("int8", model), Npu())["npu_cycles"] for model in ("r50", "norm-free"))
    assert without < 0.8 * exact
