import numpy as np
import pytest

from bitlite.bit.names import ROOT
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.training import measures
from bitlite.workflow.metrics import ModelScores


def test_metrics_of_a_model():
    bit = untrained(
        "test", Shape(filters=4, units=(1,), groups=2, root=3, pool=False, image_size=(8, 8)), seed=0
    )  # 3x3x3x4, 1x1x4x4, 1x1x4x16, 3x3x4x4 and 1x1x4x16; gamma and beta of 4, 4, 4 and 16 channels
    root = bit.weights[f"{ROOT}/kernel"]
    root[0, 0] = 0
    logits = np.array([[6, 5, 4, 3, 2, 1, 0]] * 3, np.float32)
    assert measures.of_model(bit, logits, np.array([0, 4, 5])) == ModelScores(
        accuracy=pytest.approx(1 / 3),
        top5_accuracy=pytest.approx(2 / 3),
        parameters=396 + 56,
        sparsity=12 / 396,
        macs=396 * 4 * 4,
    )
