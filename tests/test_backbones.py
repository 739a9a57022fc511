import contextlib
import http.server
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from stages import InputError
from stages.bit import backbones, model
from stages.bit.backbones import fetch
from stages.params import Backbone

ROOT_KERNEL = f"{model.ROOT}/kernel"


def published(**changes) -> model.Bit:
    """As small as a BiT of the published form can be: groups of one channel."""
    shape = {"filters": 32, "units": (1, 2), "groups": 32, "root": 7, "pool": True, "image_size": (224, 224)}
    return model.untrained("published", seed=1, **{**shape, **changes})


@pytest.fixture
def npz(tmp_path):
    """Writes weights as an .npz file and gives its path."""

    def write(weights: dict[str, np.ndarray], name: str = "weights.npz") -> Path:
        np.savez(tmp_path / name, **weights)
        return tmp_path / name

    return write


@contextlib.contextmanager
def server(respond):
    """The address of a server on loopback that answers every GET by `respond`; what was asked for, as a list."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            respond(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{http_server.server_port}", asked
        finally:
            http_server.shutdown()
            thread.join()


def sends(content: bytes, length: int | None = None):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def refusal(name) -> str:
    with pytest.raises(InputError) as error:
        fetch(Backbone(name=str(name)))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def assert_weights(bit: model.Bit, expected: model.Bit) -> None:
    assert bit.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        assert bit.weights[name].dtype == np.float32
        np.testing.assert_array_equal(bit.weights[name], value, err_msg=name)


# Embedded


def test_bit_tiny():
    bit = fetch(Backbone(name="bit-tiny"))
    untrained = fetch(Backbone(name="bit-tiny-untrained"))
    assert {name: value.shape for name, value in bit.weights.items()} == {
        name: value.shape for name, value in untrained.weights.items()
    }
    assert bit.architecture == model.Architecture(
        "bit-tiny", groups=16, pool=False, standardized=True, image_size=(32, 32)
    )
    assert [unit.stride for unit in bit.units] == [1, 2, 1, 2, 1, 1, 1]
    assert all(np.isfinite(value).all() for value in bit.weights.values())
    # Trained: norms have left the ones and zeros that they start from.
    assert all(value.std() > 0 for name, value in bit.weights.items() if name.endswith(("/gamma", "/beta")))
    assert backbones.BIT_TINY.stat().st_size <= 4_000_000


def test_untrained_backbone_follows_the_seed():
    one, same, other = (fetch(Backbone(name="bit-tiny-untrained"), seed=seed) for seed in (1, 1, 2))
    assert_weights(same, one)
    assert not np.array_equal(one.weights[ROOT_KERNEL], other.weights[ROOT_KERNEL])


# Files


@pytest.mark.parametrize("units", [(1, 2), (1, 1, 1, 1)])
def test_npz_by_path(npz, units):
    path = npz(published(units=units).weights)
    bit = fetch(Backbone(name=str(path)))
    assert_weights(bit, published(units=units))
    assert bit.architecture == model.Architecture(
        str(path), groups=32, pool=True, standardized=True, image_size=(224, 224)
    )


def test_three_pixel_root_means_bit_tiny_s_form(npz):
    bit = published(root=3, pool=False, groups=16)
    architecture = fetch(Backbone(name=str(npz(bit.weights)))).architecture
    assert (architecture.groups, architecture.pool, architecture.image_size) == (16, False, (32, 32))


def test_published_head_is_left_out(npz):
    with_head = model.with_head(published(), ("a", "b"), (224, 224))
    assert_weights(fetch(Backbone(name=str(npz(with_head.weights)))), published())


def test_half_precision_becomes_float32(npz):
    halves = {name: value.astype(np.float16) for name, value in published().weights.items()}
    expected = {name: value.astype(np.float32) for name, value in halves.items()}
    assert_weights(fetch(Backbone(name=str(npz(halves)))), published().with_weights(expected))


GAMMA = "resnet/block2/unit02/b/group_norm/gamma"
KERNEL = "resnet/block1/unit01/a/proj/standardized_conv2d/kernel"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({GAMMA: None}, f"1 are missing: {GAMMA}"),
        ({KERNEL: None, GAMMA: None}, f"2 are missing: {KERNEL}"),
        ({"resnet/block1/unit01/d/bias": np.zeros(3)}, "1 are not BiT's: resnet/block1/unit01/d/bias"),
        ({GAMMA: np.zeros(65)}, f"1 are misshapen: {GAMMA}"),
        ({KERNEL: np.zeros((3, 3, 32, 128))}, f"1 are misshapen: {KERNEL}"),
        ({ROOT_KERNEL: None}, "not named as BiT's"),
        ({ROOT_KERNEL: np.zeros((5, 5, 3, 32))}, f"1 are misshapen: {ROOT_KERNEL}"),
        ({ROOT_KERNEL: np.float32(0)}, "weights"),
        ({GAMMA: np.array(["a"] * 64)}, GAMMA),
    ],
)
def test_wrong_weight_is_named(npz, changes, told):
    weights = {**published().weights, **changes}
    path = npz({name: value for name, value in weights.items() if value is not None})
    message = refusal(path)
    assert told in message and str(path) in message


def test_weights_of_another_network(npz):
    path = npz({"conv1/kernel": np.zeros((3, 3))})
    assert (
        refusal(path) == f"backbone.name is {str(path)!r}, whose weights are not named as BiT's: ['conv1/kernel'] ..."
    )


def test_too_narrow_for_its_groups(npz):
    # 32 groups of 8 channels: the network could not be built.
    path = npz(published(filters=8).weights)
    assert str(path) in refusal(path)


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


BROKEN = {
    "missing": lambda path: None,
    "pickled": lambda path: np.savez(path, **{ROOT_KERNEL: np.array([{}], object)}),
    "a page": lambda path: path.write_text("<html>"),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: (np.savez(path, a=np.zeros(1000)), path.write_bytes(path.read_bytes()[:2000])),
    "one array": one_array,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_npz_is_named(tmp_path, broken):
    path = tmp_path / "broken.npz"
    BROKEN[broken](path)
    assert str(path) in refusal(path)


def test_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    np.savez(tmp_path / "evil.npz", **{**published().weights, GAMMA: np.array([Evil()], object)})
    assert "evil.npz" in refusal(tmp_path / "evil.npz")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["bit-m-r50x9", "BiT-M-R50x1", "resnet50", "no/such/folder"])
def test_unknown_name_lists_the_allowed(name):
    message = refusal(name)
    assert message.startswith(f"backbone.name is {name!r}: allowed are bit-tiny, ")
    for allowed in ("bit-s-r50x1", "bit-m-r50x1", "bit-m-r152x4", ".npz", "SavedModel"):
        assert allowed in message


# Addresses


def test_npz_by_address(npz):
    content = npz(published().weights).read_bytes()
    with server(sends(content)) as (address, asked):
        bit = fetch(Backbone(name=f"{address}/models/BiT.npz"))
    assert asked == ["/models/BiT.npz"]
    assert_weights(bit, published())
    assert bit.architecture.name == f"{address}/models/BiT.npz"


def test_published_name_means_its_address(npz, monkeypatch):
    assert len(backbones.PUBLISHED) == 12
    expected = "https://storage.googleapis.com/bit_models/BiT-M-R50x1.npz"
    assert backbones.PUBLISHED["bit-m-r50x1"] == expected
    with server(sends(npz(published().weights).read_bytes())) as (address, asked):
        monkeypatch.setitem(backbones.PUBLISHED, "bit-m-r50x1", f"{address}/BiT-M-R50x1.npz")
        bit = fetch(Backbone(name="bit-m-r50x1"))
    assert asked == ["/BiT-M-R50x1.npz"]
    assert bit.architecture.name == "bit-m-r50x1"
    assert_weights(bit, published())


@pytest.mark.parametrize(
    ("respond", "told"),
    [
        (lambda handler: handler.send_error(404), "404"),
        (lambda handler: handler.send_error(503), "503"),
        (sends(b"PK" * 100, length=1000), "fetched"),
        (sends(b"<html>Log in first</html>"), ""),
    ],
    ids=["404", "503", "cut short", "a page"],
)
def test_failed_download_names_the_address(respond, told):
    with server(respond) as (address, _):
        message = refusal(f"{address}/BiT.npz")
    assert f"{address}/BiT.npz" in message and told in message


def test_closed_port_names_the_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/BiT.npz"
        message = refusal(address)
    assert message.startswith(address)
    assert "give its path as backbone.name" in message


# SavedModel


def test_saved_model_with_bit_s_variables(tmp_path):
    import tensorflow as tf

    # As the published one: a list `variables`, each under BiT's own name.
    module = tf.train.Checkpoint()
    with_head = model.with_head(published(), ("a", "b"), (224, 224))
    module.variables = [tf.Variable(value, name=name) for name, value in with_head.weights.items()]
    tf.saved_model.save(module, str(tmp_path / "saved"))
    assert_weights(fetch(Backbone(name=str(tmp_path / "saved"))), published())


def test_folder_that_is_no_saved_model(tmp_path):
    assert str(tmp_path) in refusal(tmp_path)


def test_saved_model_of_something_else(tmp_path):
    import tensorflow as tf

    tf.saved_model.save(tf.train.Checkpoint(weight=tf.Variable(1.0)), str(tmp_path / "saved"))
    assert str(tmp_path / "saved") in refusal(tmp_path / "saved")


def test_handle_that_can_t_be_fetched_names_it():
    with server(lambda handler: handler.send_error(404)) as (address, _):
        assert f"{address}/bit/m-r50x1/1" in refusal(f"{address}/bit/m-r50x1/1")
