import json
import re
from dataclasses import dataclass

import pytest

from bitlite.workflow import metrics
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


def test_metrics_file_may_hold_more(tmp_path):
    write_json(tmp_path / "m.json", {**GOOD, "kept_channels": 9})
    assert metrics.read(tmp_path / "m.json", Known) == Known(**GOOD)
