"""scheme: mixed: which convolutions become what."""

import itertools
from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from test_tflite import bit_of, confident, photos

from bitlite.bit import network
from bitlite.bit.names import ROOT
from bitlite.litert import runtime
from bitlite.tflite import conversion, convolutions, mixed
from bitlite.tflite.graph import to_file
from bitlite.tflite.mixed import SAVED, Alone
from bitlite.tflite.schemes import lowered
from bitlite.workflow.params import Mixed


@pytest.fixture(scope="module")
def bit():
    return confident(bit_of(filters=16, units=(2, 1), root=7, pool=True))


@pytest.fixture(scope="module")
def validation(bit):
    """Images whose labels are what the float32 model says."""
    images = photos(64, seed=3)
    return images, network.build(bit)(images.astype(np.float32)).numpy().argmax(axis=1)


def source_of(bit, **keys):
    return conversion.source(bit, Mixed(scheme="mixed", **keys), photos(16, seed=1))


@pytest.fixture(scope="module")
def source(bit):
    return source_of(bit, max_accuracy_drop=0.1)


@pytest.fixture(scope="module")
def found(source, validation):
    return mixed.choose(source, *validation)


def logits(content, images, directory):
    (directory / "model").write_bytes(content)
    return runtime.logits(directory / "model", images)


def types_after(rows, step):
    """By the rows' own account."""
    return {row["layer"]: row["type"] for row in rows if row["step"] != "" and 0 < row["step"] <= step}


# The order of the steps


@pytest.mark.parametrize("seed", range(5))
def test_no_other_types_that_save_as_much_err_less(seed):
    random = np.random.default_rng(seed)
    measured = [
        Alone(layer, type, error=random.random(), saved_bytes=int(random.integers(-20, 100)))
        for layer in "abcde"
        for type in ("int8", "int4")
    ]
    steps = mixed.in_order(measured, SAVED["size"])
    assert {step.type for step in steps} == {"int8", "int4"}
    choices = [[Alone(layer, "float32"), *(each for each in measured if each.layer == layer)] for layer in "abcde"]
    every = [
        (sum(each.saved_bytes for each in chosen), sum(each.error for each in chosen))
        for chosen in itertools.product(*choices)
    ]
    for count in range(len(steps) + 1):
        last = {step.layer: step for step in steps[:count]}.values()
        saved, error = sum(each.saved_bytes for each in last), sum(each.error for each in last)
        assert error == pytest.approx(min(other for others, other in every if others >= saved))
    assert saved == max(others for others, _ in every)


def test_types_of_one_price_are_taken_one_after_the_other():
    # (0.12 - 0.04) / 2 is less than 0.04 in binary.
    measured = [Alone("a", "int8", 0.04, 1), Alone("a", "int4", 0.12, 3), Alone("b", "int8", 0.04, 1)]
    steps = mixed.in_order(measured, SAVED["size"])
    assert [(step.layer, step.type) for step in steps if step.layer == "a"] == [("a", "int8"), ("a", "int4")]


def test_latency_saves_what_was_timed():
    measured = [Alone("a", "int8", 0.1, 9, saved_us=-1.0), Alone("b", "int8", 0.2, 1, saved_us=2.0)]
    assert [step.layer for step in mixed.in_order(measured, SAVED["latency"])] == ["b"]


# How far


@pytest.mark.parametrize("count", [0, 1, 3, 4, 48, 107])
def test_the_last_place_that_is_enough_is_found(count):
    for right in range(count + 1):
        asked = []

        def enough(place, asked=asked, right=right):
            asked.append(place)
            return place <= right

        assert mixed.last(count, enough) == right
        assert len(asked) == len(set(asked)) <= mixed.PARTS + 1 + np.log2(count // mixed.PARTS + 1) + 1
        assert asked[0] == 0 and count in asked


def test_a_place_that_does_again_after_one_that_does_not_is_taken():
    assert mixed.last(8, lambda place: place not in (2, 7)) == 8
    assert mixed.last(8, lambda place: place not in (2, 7, 8)) == 6


# The choice


def test_the_file_keeps_its_accuracy_and_the_next_step_tried_does_not(source, validation, found, tmp_path):
    images, labels = validation
    types, rows = found

    def accuracy(types):
        return np.mean(logits(conversion.file(source, types), images, tmp_path).argmax(axis=1) == labels)

    assert accuracy({}) == 1
    assert accuracy(types) >= 0.9
    tried = [row for row in rows if row["accuracy"] != ""]
    assert all(row["accuracy"] == accuracy(types_after(rows, row["step"])) for row in tried)
    after = [row for row in tried if row["chosen"] == "false"]
    assert after and after[0]["accuracy"] < 0.9
    assert [row["chosen"] for row in rows] == sorted((row["chosen"] for row in rows), reverse=True)
    assert types == types_after(rows, max(row["step"] for row in rows if row["chosen"] == "true"))
    assert len(set(types.values())) > 1 or len(types) < len(source.bit.paths)


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_nothing_is_lost_if_nothing_may_be_and_all_saved_if_all_may(drop, bit, validation, tmp_path):
    source = source_of(bit, max_accuracy_drop=drop)
    types, rows = mixed.choose(source, *validation)
    content = conversion.file(source, types)
    if drop:
        fewest = dict.fromkeys(bit.paths, "int8") | dict.fromkeys(mixed.dense_layers(bit), "int4")
        assert all(row["chosen"] == "true" for row in rows if row["step"] != "")
        # Small kernels that save nothing have no step.
        assert len(content) < 1.01 * len(conversion.file(source, fewest))
    else:
        right = logits(content, validation[0], tmp_path).argmax(axis=1) == validation[1]
        assert right.all()


def test_rows_tell_what_was_measured(source, validation, found, tmp_path):
    types, rows = found
    assert all(tuple(row) == mixed.COLUMNS for row in rows)
    whole = len(conversion.file(source))
    assert (rows[0]["step"], rows[0]["size_bytes"], rows[0]["accuracy"]) == (0, whole, 1)
    # Every convolution in both types, but int4 where the scheme int4 has it; a step each, or none.
    int4 = mixed.dense_layers(source.bit)
    expected = {(path, "int8") for path in source.bit.paths} | {(path, "int4") for path in int4}
    assert Counter((row["layer"], row["type"]) for row in rows[1:]) == Counter(expected)
    assert [row["step"] for row in rows if row["step"] != ""] == list(range(len([r for r in rows if r["step"] != ""])))
    (chosen,) = [row for row in rows if row["step"] == sum(row["chosen"] == "true" for row in rows) - 1]
    assert chosen["size_bytes"] == len(conversion.file(source, types)) < whole
    sample = validation[0][: mixed.SAMPLE]
    right = logits(conversion.file(source), sample, tmp_path)
    right -= right.mean(axis=1, keepdims=True)
    for row in rows[1::5]:
        content = conversion.file(source, {row["layer"]: row["type"]})
        given = logits(content, sample, tmp_path)
        given -= given.mean(axis=1, keepdims=True)
        assert row["saved_bytes"] == whole - len(content)
        assert row["snr_db"] == pytest.approx(10 * np.log10(np.sum(right**2) / np.sum((given - right) ** 2)), abs=0.01)
        assert row["saved_us"] == row["latency_ms"] == ""


def test_int4_can_be_what_is_int4_in_its_own_scheme(bit):
    content = conversion.convert(bit, conversion.FLOAT32.model_copy(update={"scheme": "int4"}))
    types = {path: layer.type for path, layer in convolutions.find(content, bit.paths).items()}
    assert mixed.dense_layers(bit) == {path for path, type in types.items() if type == "int4"} != set()


def test_equal_input_gives_equal_choices(bit, validation, found):
    assert mixed.choose(source_of(bit, max_accuracy_drop=0.1), *validation) == found


def test_probabilities_are_judged_as_their_logits_are(bit, validation, found):
    _, rows = mixed.choose(source_of(bit, max_accuracy_drop=0.1, softmax=True), *validation)
    ratios, expected = ({(row["layer"], row["type"]): row["snr_db"] for row in each[1:]} for each in (rows, found[1]))
    assert ratios == {key: pytest.approx(ratio, abs=0.1) for key, ratio in expected.items()}


# Latency


def test_what_is_no_faster_stays_float32(bit, validation, monkeypatch):
    slow = {ROOT, bit.units[0].conv("b")}

    def times(paths, **_):
        """Milliseconds of the files of single convolutions: integers take 1 instead of 2, but 3 where they are slow."""
        found = []
        for path in paths:
            content = path.read_bytes()
            names = [each["name"] for each in Interpreter(model_content=content).get_tensor_details()]
            layers = [layer for layer in bit.paths if any(name.startswith(f"bit/{layer}/") for name in names)]
            type = convolutions.find(content, layers)[layers[0]].type
            found.append(2.0 if type == "float32" else 3.0 if layers[0] in slow else 1.0)
        return found

    monkeypatch.setattr(mixed.latency, "in_turns", times)
    types, rows = mixed.choose(source_of(bit, objective="latency", max_accuracy_drop=1.0), *validation)
    assert set(types) == set(bit.paths) - slow
    assert {row["saved_us"] for row in rows[1:]} == {1000.0, -1000.0}


def test_weights_are_rounded_as_the_entry_says_but_in_trials(bit):
    types = dict.fromkeys(mixed.dense_layers(bit), "int4")
    nearest = conversion.file(source_of(bit, rounding="nearest"), types)
    compensated = source_of(bit, rounding="compensated")
    assert conversion.file(compensated, types, trial=True) == nearest != conversion.file(compensated, types)


@pytest.mark.parametrize("types", ["int8", "int4"])
def test_a_single_convolution_is_that_of_the_network(types, source, bit):
    chosen = dict.fromkeys(mixed.dense_layers(bit) if types == "int4" else bit.paths, types)
    graph = lowered(source, chosen)
    whole = to_file(graph)
    layers = convolutions.find(whole, bit.paths)
    (value,) = (  # of one image, which the function is good for
        {path: (each(layer.output.number).copy(), each) for path, layer in layers.items()}
        for each in convolutions.values(whole, photos(1))
    )
    for path in chosen:
        expected, read = value[path]
        single = Interpreter(model_content=to_file(mixed.single(graph, path)))
        single.allocate_tensors()
        (taken,), (given,) = single.get_input_details(), single.get_output_details()
        numbers = {each["name"]: each["index"] for each in Interpreter(model_content=whole).get_tensor_details()}
        single.set_tensor(taken["index"], read(numbers[taken["name"]]))
        single.invoke()
        assert given["name"] == layers[path].output.name
        assert single.get_tensor(given["index"]) == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))
