import pytest
from comparisons import comparison, variant

from bitlite.report.places import PLACES, advice, caution
from bitlite.report.text import series

PLACE = {place.name: place for place in PLACES}
# What fits everywhere.
FIT = {
    "gpu_agreement": 1.0, "gpu_whole": True, "gpu_difference": 0.000012, "float16_agreement": 1.0, "float16_peak": 0.25,
    "tflm_agreement": 1.0, "tflm_arena_bytes": 207_000, "npu_share": 1.0, "npu_cycles": 4_600_000,
}  # fmt: skip
NO_GPU = {"gpu_agreement": 0.0, "gpu_whole": False, "gpu_difference": None}
NO_BOARD = {"tflm_agreement": 0.0, "tflm_arena_bytes": None}
NO_NPU = {"npu_share": 0.0, "npu_cycles": None}


def found(place: str, **changes):
    """What a place says of a file that fits everywhere but for `changes`: whether it is fit, and the words."""
    finding = PLACE[place].find(variant("dense-int8", **FIT | changes))
    return finding.fit, str(finding)


# Findings


def test_what_fits():
    assert found("GPU") == (True, "right (off by less than 0.1 %)")
    assert found("float16") == (True, "right (peak 25.0 % of its range)")
    assert found("Microcontroller") == (True, "right (207 kB)")
    assert found("NPU") == (True, "whole (4.60 M cycles)")


def test_what_was_not_checked_is_neither_fit_nor_unfit():
    for place in PLACES:
        finding = place.find(variant("dense-int8"))
        assert (finding.fit, str(finding)) == (None, "not checked")


# The number of cycles decides nothing.
@pytest.mark.parametrize("field", [field for field in FIT if field != "npu_cycles"])
def test_no_null_passes(field):
    place = {"gpu": "GPU", "float16": "float16", "tflm": "Microcontroller", "npu": "NPU"}[field.partition("_")[0]]
    assert found(place, **{field: None}) == (None, "not checked")


@pytest.mark.parametrize(
    ("place", "field"),
    [("GPU", "gpu_agreement"), ("float16", "float16_agreement"), ("Microcontroller", "tflm_agreement")],
)
def test_a_share_of_the_images_is_shown_and_99_of_100_are_enough(place, field):
    for agreement, fit, text in ((0.99, True, "99.0 %"), (0.98, False, "98.0 %"), (0.0, False, "0.0 %")):
        assert found(place, **{field: agreement})[0] is fit
        assert found(place, **{field: agreement})[1].startswith(f"{text} (")


def test_a_place_may_refuse_a_file():
    assert found("GPU", **NO_GPU) == (False, "refuses")
    assert found("GPU", **NO_GPU | {"gpu_whole": None}) == (False, "refuses")
    assert found("Microcontroller", **NO_BOARD) == (False, "refuses")


def test_a_part_is_not_enough():
    assert found("GPU", gpu_whole=False) == (False, "right (in part, off by less than 0.1 %)")
    assert found("NPU", npu_share=0.97) == (False, "97.0 % (4.60 M cycles)")
    assert found("NPU", **NO_NPU) == (False, "none")


def test_the_same_classes_of_other_outputs_are_not_enough():
    assert found("GPU", gpu_difference=0.5) == (False, "right (off by 50.0 %)")


def test_right_answers_do_not_make_up_for_values_beyond_float16():
    assert found("float16", float16_peak=2.8) == (False, "right (peak 280.0 % of its range)")


def test_files_of_integers_have_nothing_to_compute_in_float16():
    assert found("float16", float16_agreement=None, float16_peak=0.0) == (None, "all integers")


# Sentences


def test_advice_is_by_quantization_where_all_its_variants_are_alike():
    kinds = {"float32": FIT | NO_NPU, "float16": FIT | NO_NPU | NO_BOARD, "dynamic": FIT | NO_NPU | NO_BOARD}
    kinds["int8"] = FIT | NO_GPU | {"float16_agreement": None, "float16_peak": 0.0}
    made = [variant(f"{pruning}-{name}", **found) for pruning in ("dense", "channels") for name, found in kinds.items()]
    assert advice(comparison(*made)) == (
        "What to ship where: float32 for CPUs, GPUs, float16 arithmetic and microcontrollers, not for NPUs; "
        "float16 and dynamic for CPUs, GPUs and float16 arithmetic, not for microcontrollers or NPUs; "
        "int8 for CPUs, microcontrollers and NPUs, not for GPUs."
    )


def test_advice_names_variants_where_a_quantization_is_not_all_alike():
    made = [variant(f"{pruning}-float32", **FIT) for pruning in ("dense", "channels")]
    made.insert(1, variant("magnitude-float32", **FIT | NO_GPU))
    assert advice(comparison(*made)) == (
        "What to ship where: "
        "dense-float32 and channels-float32 for CPUs, GPUs, float16 arithmetic, microcontrollers and NPUs; "
        "magnitude-float32 for CPUs, float16 arithmetic, microcontrollers and NPUs, not for GPUs."
    )


def test_advice_claims_nothing_of_what_was_not_checked():
    assert advice(comparison(variant("dense-float32"))) == (
        "What to ship where: float32 for CPUs, not checked for GPUs, float16 arithmetic, microcontrollers or NPUs."
    )
    assert advice(comparison(variant("dense-float32", **NO_GPU))) == (
        "What to ship where: float32 for CPUs, not for GPUs, "
        "not checked for float16 arithmetic, microcontrollers or NPUs."
    )


def test_advice_is_against_all_that_is_not_accurate_enough():
    broken = variant("dense-int8", **FIT, validation_accuracy=0.5)
    told = advice(comparison(variant("dense-float32", **FIT), broken))
    assert told.endswith("microcontrollers and NPUs. What this does not name is not accurate enough.")
    assert "int8" not in told
    # Nor does the name of a quantization stand for one that is.
    told = advice(comparison(variant("dense-float32", **FIT), broken, variant("channels-int8", **NO_GPU)))
    assert "channels-int8 for CPUs, not for GPUs, not checked for" in told and "dense-int8" not in told
    assert told.endswith("What this does not name is not accurate enough.")


def test_caution_is_of_what_is_known():
    assert caution(variant("dense-int8")) == caution(variant("dense-int8", **FIT)) == ""
    assert caution(variant("dense-int8", **NO_GPU)) == "dense-int8 is not for GPUs."
    nor_boards = variant("dense-int4", **FIT | NO_BOARD | NO_NPU)
    assert caution(nor_boards) == "dense-int4 is not for microcontrollers or NPUs."


def test_series():
    assert [series(items) for items in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
