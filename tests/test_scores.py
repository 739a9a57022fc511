import numpy as np
import pytest

from bitlite.workflow import scores


def among_highest(logits, label, k):
    """Whether fewer than k classes come before the label's: those of a higher logit, or of an equal one and lower."""
    before = [c for c, value in enumerate(logits) if value > logits[label] or (value == logits[label] and c < label)]
    return len(before) < k


@pytest.mark.parametrize("k", [1, 2, 5, 9])
@pytest.mark.parametrize("kind", ["distinct", "ties", "uint8"])
def test_accuracy_against_counting(k, kind):
    random = np.random.default_rng(k)
    logits = {
        "distinct": random.standard_normal((200, 9)).astype(np.float32),
        "ties": random.integers(-2, 2, (200, 9)).astype(np.float32),
        # As a quantized model gives them: their negative is no uint8.
        "uint8": random.integers(0, 4, (200, 9), np.uint8),
    }[kind]
    labels = random.integers(9, size=200)
    hits = sum(among_highest(row, label, k) for row, label in zip(logits.tolist(), labels, strict=True))
    assert scores.accuracy(logits, labels, k) == hits / 200
    assert hits == 200 if k == 9 else 0 < hits < 200


def test_top5_of_fewer_classes_is_all():
    assert scores.accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 2]), k=5) == 1


def test_predictions_agree_with_accuracy():
    logits = np.random.default_rng(0).integers(3, size=(50, 4)).astype(np.float32)
    labels = np.random.default_rng(1).integers(4, size=50)
    rows = list(scores.predictions(logits, labels, "abcd"))
    assert [row["actual"] for row in rows] == ["abcd"[label] for label in labels]
    assert np.mean([row["actual"] == row["predicted"] for row in rows]) == scores.accuracy(logits, labels)


def test_predictions():
    logits = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0], [-1.0, -2.0, -0.5]])
    rows = scores.predictions(logits, np.array([1, 1, 0]), ("daisy", "rose", "tulip"))
    assert list(rows) == [
        {"actual": "rose", "predicted": "rose"},
        {"actual": "rose", "predicted": "daisy"},
        {"actual": "daisy", "predicted": "tulip"},
    ]
    assert scores.PREDICTION_COLUMNS == ("actual", "predicted")


def test_predictions_refuse_labels_of_other_images():
    with pytest.raises(ValueError):
        list(scores.predictions(np.zeros((2, 3)), np.zeros(3, int), "abc"))


def test_agreement_is_of_predictions_right_or_wrong():
    some, others = ([{"actual": "a", "predicted": predicted} for predicted in row] for row in ("aabb", "abba"))
    assert scores.agreement(some, others) == 0.5
    with pytest.raises(ValueError):
        scores.agreement(some, others[:3])
