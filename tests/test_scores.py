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
    rows = list(scores.predictions(scores.softmax(logits), labels, "abcd"))
    assert [row["actual"] for row in rows] == ["abcd"[label] for label in labels]
    assert np.mean([row["actual"] == row["predicted"] for row in rows]) == scores.accuracy(logits, labels)


def test_softmax_against_its_definition():
    logits = np.random.default_rng(0).normal(0, 3, (20, 5))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(scores.softmax(logits.astype(np.float32)), expected, atol=1e-6)
    # Powers of large logits would be infinite.
    assert np.allclose(scores.softmax(np.float32([[1000, 1000, 0]])), [[0.5, 0.5, 0]])


def test_predictions():
    probabilities = np.array([[0.1, 0.65433, 0.24567], [0.4, 0.4, 0.2], [0.3, 0.1, 0.6]])
    rows = scores.predictions(probabilities, np.array([1, 1, 0]), ("daisy", "rose", "tulip"))
    assert list(rows) == [
        {"actual": "rose", "predicted": "rose", "confidence": 0.6543},
        {"actual": "rose", "predicted": "daisy", "confidence": 0.4},
        {"actual": "daisy", "predicted": "tulip", "confidence": 0.6},
    ]
    assert tuple(rows_of(probabilities)) == tuple(scores.PREDICTION_COLUMNS) == ("actual", "predicted", "confidence")


def rows_of(probabilities):
    return next(scores.predictions(probabilities[:1], np.array([0]), "abc"))


def test_recall_and_precision_of_each_class():
    pairs = ["aa", "aa", "ab", "bb", "ba", "ba", "cb"]
    rows = [{"actual": actual, "predicted": predicted, "confidence": 1.0} for actual, predicted in pairs]
    assert list(scores.by_class(rows, "abcd")) == [
        {"class": "a", "images": 3, "recall": 2 / 3, "precision": 2 / 4},
        {"class": "b", "images": 3, "recall": 1 / 3, "precision": 1 / 3},
        {"class": "c", "images": 1, "recall": 0.0, "precision": ""},
        {"class": "d", "images": 0, "recall": "", "precision": ""},
    ]


def test_log_loss_counts_no_probability_as_less_than_the_least():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])
    expected = -(np.log(0.5) + np.log(0.8) + np.log(scores.LEAST_PROBABILITY)) / 3
    assert scores.log_loss(probabilities, np.array([0, 1, 0])) == pytest.approx(expected)


def test_calibration_error_of_one_bin_after_the_other():
    random = np.random.default_rng(0)
    probabilities = scores.softmax(random.normal(0, 2, (500, 4)))
    labels = random.integers(4, size=500)
    confidences, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0
    for number in range(15):
        inside = (confidences >= number / 15) & (confidences < (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidences[inside].mean() - hits[inside].mean())
    assert scores.calibration_error(probabilities, labels) == pytest.approx(expected)
    assert expected > 0.1
    assert scores.calibration_error(np.eye(3), np.arange(3)) == 0
    assert scores.calibration_error(np.eye(3), np.array([1, 2, 0])) == 1


def test_confidence_change():
    some, others = ([{"confidence": value} for value in row] for row in (("0.5", "0.9"), (0.6, 0.7)))
    assert scores.confidence_change(some, others) == pytest.approx(0.15)


def test_predictions_refuse_labels_of_other_images():
    with pytest.raises(ValueError):
        list(scores.predictions(np.zeros((2, 3)), np.zeros(3, int), "abc"))


def test_agreement_is_of_predictions_right_or_wrong():
    some, others = ([{"actual": "a", "predicted": predicted} for predicted in row] for row in ("aabb", "abba"))
    assert scores.agreement(some, others) == 0.5
    with pytest.raises(ValueError):
        scores.agreement(some, others[:3])
