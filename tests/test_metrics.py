import json
import re
from dataclasses import dataclass, fields

import pytest

from bitlite.workflow import metrics
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import write_json


@dataclass(frozen=True)
class Known:
    accuracy: float
    macs: int
    cpu: str


GOOD = {"accuracy": 0.5, "macs": 9, "cpu": "a"}


def test_record_comes_back_equal(tmp_path):
    record = metrics.PrunedScores(
        accuracy=1,
        top5_accuracy=1.0,
        parameters=7,
        sparsity=0.1,
        macs=10**12,
        accuracy_before_recovery=0.2,
        frozen_norms=3,
    )
    metrics.write(tmp_path / "dense.json", record)
    assert metrics.read(tmp_path / "dense.json", metrics.PrunedScores) == record
    assert json.loads((tmp_path / "dense.json").read_text()) == {
        "accuracy": 1, "top5_accuracy": 1.0, "parameters": 7, "sparsity": 0.1, "macs": 10**12,
        "accuracy_before_recovery": 0.2, "frozen_norms": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", "7", *(
        json.dumps({key: value for key, value in {**GOOD, **wrong}.items() if value != "absent"})
        for wrong in (
            {"macs": "absent"}, {"macs": "9"}, {"macs": float("nan")}, {"macs": None}, {"macs": True},
            {"accuracy": []}, {"cpu": "absent"}, {"cpu": 1},
        )
    )],
)  # fmt: skip
def test_unusable_metrics_are_named(tmp_path, content):
    path = tmp_path / "finetune.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} .*dvc repro") as error:
        metrics.read(path, Known)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [({"accuracy": 0.5, "cpu": "a"}, "holds no macs"), ({**GOOD, "macs": "9"}, "holds '9' as macs")],
)
def test_wrong_key_is_named(tmp_path, content, told):
    write_json(tmp_path / "m.json", content)
    with pytest.raises(ValueError, match=rf"{told}: delete it and run `dvc repro`$"):
        metrics.read(tmp_path / "m.json", Known)


@dataclass(frozen=True)
class Optional:
    whole: bool | None
    difference: float | None


@pytest.mark.parametrize("content", [{"whole": None, "difference": None}, {"whole": False, "difference": 0.25}])
def test_what_may_be_null_comes_back_null_or_as_it_is(tmp_path, content):
    write_json(tmp_path / "m.json", content)
    assert metrics.read(tmp_path / "m.json", Optional) == Optional(**content)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"whole": 1}, "1 as whole"), ({"whole": "true"}, "'true' as whole"),
        ({"difference": True}, "True as difference"), ({"difference": "0"}, "'0' as difference"),
    ],
)  # fmt: skip
def test_what_may_be_null_may_not_be_of_another_type(tmp_path, wrong, told):
    write_json(tmp_path / "m.json", {"whole": None, "difference": None} | wrong)
    with pytest.raises(ValueError, match=f"holds {told}"):
        metrics.read(tmp_path / "m.json", Optional)


@pytest.mark.parametrize("content", [{"whole": None}, {"difference": None}])
def test_what_may_be_null_must_be_there(tmp_path, content):
    write_json(tmp_path / "m.json", content)
    with pytest.raises(ValueError, match="holds no (whole|difference)"):
        metrics.read(tmp_path / "m.json", Optional)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (metrics.Evaluation, {"accuracy": 7}), (metrics.Evaluation, {"accuracy": -0.1}),
        (metrics.Evaluation, {"size_bytes": 0}), (metrics.Evaluation, {"size_bytes": 1.5}),
        (metrics.Evaluation, {"sparsity": 1.1}), (metrics.Timing, {"latency_ms_p50": 0}),
        (metrics.Timing, {"baseline_ms_p50": 1e-308}), (metrics.Timing, {"latency_ms_p90": 1e308}),
        (metrics.Timing, {"peak_memory_mb": -1}), (metrics.Timing, {"threads": 0}), (metrics.Timing, {"delegated": 2}),
        (metrics.Places, {"gpu_agreement": 3}), (metrics.Places, {"npu_cycles": -1}),
        (metrics.ModelScores, {"macs": 0}), (metrics.PrunedScores, {"frozen_norms": -1}),
        (metrics.PhoneTiming, {"latency_ms_p95": -1}),
    ],
)  # fmt: skip
def test_what_can_not_be_is_told(tmp_path, kind, wrong):
    texts = {"cpu": "a", "npu": "b", "oldest_runtime": "c"}
    good = {field.name: texts.get(field.name, 1) for field in fields(kind)} | {"gpu_whole": True, "gpu": True}
    write_json(tmp_path / "m.json", good)
    assert metrics.read(tmp_path / "m.json", kind).__class__ is kind
    write_json(tmp_path / "m.json", good | wrong)
    ((key, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"m\.json holds {re.escape(repr(value))} as {key}: delete it and run"):
        metrics.read(tmp_path / "m.json", kind)


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"accuracy": NaN}', b'{"accuracy": 1e999}', b"\0"])
def test_bytes_that_are_no_json(tmp_path, content):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(InputError, match="m.json holds "):
        metrics.read(tmp_path / "m.json", Known)


def test_metrics_file_may_hold_more(tmp_path):
    write_json(tmp_path / "m.json", {**GOOD, "kept_channels": 9})
    assert metrics.read(tmp_path / "m.json", Known) == Known(**GOOD)
