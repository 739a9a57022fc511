"""A .tflite file run by interpreters side by side, against one interpreter by itself."""

import numpy as np
import pytest

from bitlite.bit.names import HEAD
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.images.pixels import Pixels
from bitlite.litert import latency, runtime
from bitlite.tflite import conversion
from bitlite.workflow.params import Integers, Uncalibrated

SIZE = (24, 16)
PHOTOS = np.random.default_rng(0).integers(256, size=(50, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    shape = Shape(filters=16, units=(1, 1), groups=8, root=3, pool=True, image_size=SIZE)
    bit = untrained("bit-test", shape, seed=0).with_head(tuple("abc"), SIZE)
    kernel = np.random.default_rng(1).normal(size=bit.weights[f"{HEAD}/kernel"].shape).astype(np.float32)
    bit = bit.with_weights({**bit.weights, f"{HEAD}/kernel": kernel}).folded()
    directory = tmp_path_factory.mktemp("files")
    entries = {"float32": Uncalibrated(scheme="float32"), "int8": Integers(scheme="int8", calibration_images=8)}
    for name, entry in entries.items():
        (directory / name).write_bytes(conversion.convert(bit, entry, PHOTOS[:8]))
    return {name: directory / name for name in entries}


@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize("processors", [1, 2, 5])
def test_interpreters_side_by_side_give_what_one_gives(files, scheme, processors, monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: processors)
    expected = runtime.Classifier(files[scheme]).logits(PHOTOS)
    assert np.array_equal(runtime.logits(files[scheme], PHOTOS), expected)
    # Rows differ, so that another order would show.
    assert len(np.unique(expected, axis=0)) > len(PHOTOS) / 2


def test_images_may_be_decoded_as_they_are_run(files):
    decoded = Pixels(len(PHOTOS), SIZE, PHOTOS.__getitem__, cache_mb=0)
    assert np.array_equal(runtime.logits(files["float32"], decoded), runtime.logits(files["float32"], PHOTOS))


@pytest.mark.parametrize(("share", "interpreters"), [(0.5, 1), (1, 1), (2.5, 2), (99, 4)])
def test_large_files_have_fewer_interpreters(files, share, interpreters, monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 4)
    monkeypatch.setattr(runtime, "WEIGHTS_BYTES", int(share * files["float32"].stat().st_size))
    made, classifier = [], runtime.Classifier
    monkeypatch.setattr(runtime, "Classifier", lambda path: made.append(path) or classifier(path))
    runtime.logits(files["float32"], PHOTOS)
    # A thread that finds no image left makes none.
    assert 1 <= len(made) <= interpreters


class Clock:
    """In the place of a Classifier: runs take what `times` says, one after the other, and are counted."""

    input = {"shape": (1, 2, 2, 3)}

    def __init__(self, times):
        self.times, self.counted = iter(times), 0

    def latencies(self, image, *, warmup_runs, runs):
        self.counted += runs
        return np.array([next(self.times) for _ in range(runs)])


def endless(*times):
    while True:
        yield from times


def test_timing_ends_once_both_medians_are_known():
    steady, other = Clock(endless(1.0, 1.001)), Clock(endless(2.0))
    times, others = latency.side_by_side(steady, other, runs=4000)
    assert len(times) == len(others) == steady.counted == latency.LEAST_TURNS * latency.TURN
    assert np.median(times) == pytest.approx(1.0005) and np.median(others) == 2


def test_timing_of_a_restless_file_ends_at_the_bound():
    restless = Clock(endless(*np.random.default_rng(0).exponential(size=997)))
    times, others = latency.side_by_side(Clock(endless(1.0)), restless, runs=130)
    assert len(times) == len(others) == 130


def test_a_median_is_known_as_well_as_the_bootstrap_says():
    """The interval between order statistics against that of the medians of samples drawn from the sample."""
    random = np.random.default_rng(0)
    for spread, expected in ((0.05, True), (0.3, False)):
        times = random.normal(1, spread, 400)
        medians = np.median(random.choice(times, (2000, 400)), axis=1)
        low, high = np.percentile(medians, [2.5, 97.5])
        assert (max(high - 1, 1 - low) < 1.2 * latency.PRECISION) == expected
        assert latency.settled(times) == expected


def test_a_median_that_drifts_is_not_known():
    """Though as many times in another order would do."""
    drifting = np.linspace(1, 1.12, 100)
    assert not latency.settled(drifting)
    assert latency.settled(np.random.default_rng(0).permutation(drifting))


def test_ratio_is_of_medians_in_turns(files):
    assert 0.5 < latency.ratio(files["int8"], files["int8"], rounds=5, runs=20) < 2
