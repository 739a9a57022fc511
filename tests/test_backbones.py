import gzip
import io
import math
import os
import tarfile
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from loopback import closed_port, sends, server

from bitlite.backbones import backbone as backbones
from bitlite.backbones.backbone import EMBEDDED, PUBLISHED, fetch
from bitlite.bit.names import FINAL_NORM, ROOT
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import Architecture, Bit, untrained
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Backbone

ROOT_KERNEL = f"{ROOT}/kernel"


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """An empty working directory and an empty cache of TF Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))


def published(**changes) -> Bit:
    """As small as a BiT of the published form can be: groups of one channel."""
    shape = {"filters": 32, "units": (1, 2), "groups": 32, "root": 7, "pool": True, "image_size": (224, 224)}
    return untrained("published", Shape(**{**shape, **changes}), seed=1)


def with_published_head() -> Bit:
    return published().with_head(("a", "b"), (224, 224))


@pytest.fixture
def npz(tmp_path):
    """Writes weights as an .npz file and gives its path."""

    def write(weights: dict[str, np.ndarray], name: str = "weights.npz") -> Path:
        np.savez(tmp_path / name, **weights)
        return tmp_path / name

    return write


@pytest.fixture
def saved_model(tmp_path):
    """Writes weights, and variables that are none, as TF Hub's modules hold them and gives the directory."""

    def write(weights: dict[str, np.ndarray], *others) -> Path:
        import tensorflow as tf

        # As the published one: a list `variables`, each under BiT's own name.
        module = tf.train.Checkpoint()
        module.variables = [*(tf.Variable(value, name=name) for name, value in weights.items()), *others]
        tf.saved_model.save(module, str(tmp_path / "saved"))
        return tmp_path / "saved"

    return write


def packed(directory: Path, inside: str = ".") -> bytes:
    """`directory` as a .tar.gz, by default with its files at the top, as TF Hub serves it."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(directory, inside)
        return buffer.getvalue()


def refusal(name, source=None) -> str:
    with pytest.raises(InputError) as error:
        fetch(Backbone(name=str(name), source=source and str(source)))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def assert_weights(bit: Bit, expected: Bit) -> None:
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
    assert bit.architecture == Architecture("bit-tiny", groups=16, pool=False, standardized=True, image_size=(32, 32))
    assert [unit.stride for unit in bit.units] == [1, 2, 1, 2, 1, 1, 1]
    assert all(np.isfinite(value).all() for value in bit.weights.values())
    # Trained: norms have left the ones and zeros that they start from.
    assert all(value.std() > 0 for name, value in bit.weights.items() if name.endswith(("/gamma", "/beta")))
    assert EMBEDDED.stat().st_size <= 4_000_000


def test_untrained_backbone_is_the_same_every_time():
    one, same = (fetch(Backbone(name="bit-tiny-untrained")) for _ in range(2))
    assert_weights(same, one)
    assert one.weights[ROOT_KERNEL].std() > 0


# Files


@pytest.mark.parametrize("units", [(1, 2), (1, 1, 1, 1)])
def test_npz_by_path(npz, units):
    path = npz(published(units=units).weights)
    bit = fetch(Backbone(name=str(path)))
    assert_weights(bit, published(units=units))
    assert bit.architecture == Architecture(path.name, groups=32, pool=True, standardized=True, image_size=(224, 224))


def test_three_pixel_root_means_bit_tiny_s_form(npz):
    bit = published(root=3, pool=False, groups=16)
    architecture = fetch(Backbone(name=str(npz(bit.weights)))).architecture
    assert (architecture.groups, architecture.pool, architecture.image_size) == (16, False, (32, 32))


def test_published_head_is_left_out(npz):
    assert_weights(fetch(Backbone(name=str(npz(with_published_head().weights)))), published())


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
        ({GAMMA: np.full(64, np.nan)}, f"{GAMMA} has values that are not finite"),
        ({GAMMA: np.append(np.zeros(63), np.inf)}, f"{GAMMA} has values that are not finite"),
    ],
)
def test_wrong_weight_is_named(npz, changes, told):
    weights = {**published().weights, **changes}
    path = npz({name: value for name, value in weights.items() if value is not None})
    message = refusal(path)
    assert told in message and str(path) in message


def test_weights_of_another_network(npz):
    path = npz({"conv1/kernel": np.zeros((3, 3))})
    assert refusal(path) == f"backbone weights {path}: they are not named as BiT's: ['conv1/kernel'] ..."


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


# Names and sources


# Published networks with the parameters, in millions, that timm's cards of them give for 1000 classes.
NETWORKS = {
    "r50x1": ((3, 4, 6, 3), 1, 25.55),
    "r50x3": ((3, 4, 6, 3), 3, 217.32),
    "r101x1": ((3, 4, 23, 3), 1, 44.54),
    "r101x3": ((3, 4, 23, 3), 3, 387.93),
    "r152x2": ((3, 8, 36, 3), 2, 236.34),
    "r152x4": ((3, 8, 36, 3), 4, 936.53),
}


def skeleton(network: str) -> dict[str, np.ndarray]:
    """Weights that tell a network's architecture, and lack all others."""
    units, width, _ = NETWORKS[network]
    names = [f"resnet/block{b}/unit{u:02d}/a/group_norm/gamma" for b, n in enumerate(units, 1) for u in range(1, n + 1)]
    return {ROOT_KERNEL: np.zeros((7, 7, 3, 64 * width), np.float32), **{name: np.ones(1) for name in names}}


@pytest.fixture(scope="module")
def r50x1():
    return published(filters=64, units=(3, 4, 6, 3))


def test_all_published_models_have_their_addresses():
    published = [f"{size}-{net}" for size in ("S", "M") for net in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x4")]
    published += [f"{model}-ILSVRC2012" for model in published if model.startswith("M")] + ["M-R152x2"]
    addresses = {
        f"bit-{model.lower()}": f"https://storage.googleapis.com/bit_models/BiT-{model}.npz" for model in published
    }
    assert addresses.items() <= PUBLISHED.items()


@pytest.mark.parametrize("network", NETWORKS)
def test_published_networks_have_the_published_number_of_parameters(network):
    units, width, millions = NETWORKS[network]
    shapes = Shape(filters=64 * width, units=units).weights
    (channels,) = shapes[f"{FINAL_NORM}/gamma"]
    assert round((sum(map(math.prod, shapes.values())) + (channels + 1) * 1000) / 1e6, 2) == millions


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_name_is_fetched_from_its_address_and_means_its_network(name, npz, monkeypatch):
    network = name.split("-")[2]
    with server(sends(npz(skeleton(network)).read_bytes())) as (address, asked):
        monkeypatch.setitem(PUBLISHED, name, f"{address}/BiT.npz")
        assert "are missing" in refusal(name)
        assert "are missing" in refusal(name)
    assert asked == 2 * ["/BiT.npz"]  # what can't be used is not kept: its address may have another file by then


@pytest.mark.parametrize(
    ("name", "network"), [("bit-m-r101x1", "r50x1"), ("bit-s-r50x3", "r50x1"), ("bit-m-r50x1-ilsvrc2012", "r152x4")]
)
def test_name_and_weights_must_agree(name, network, npz):
    path = npz(skeleton(network))
    message = refusal(name, path)
    units, width, _ = NETWORKS[name.split("-")[2]]
    assert message.startswith(
        f"backbone.name is {name!r}, which has {'-'.join(map(str, units))} units of width {width},"
    )
    units, width, _ = NETWORKS[network]
    assert f"the weights {path} have {'-'.join(map(str, units))} units of width {width}:" in message


def test_published_name_does_not_take_bit_tiny_s_root(npz):
    changed = {**skeleton("r50x1"), ROOT_KERNEL: np.zeros((3, 3, 3, 64), np.float32)}
    assert "are missing" in refusal("bit-m-r50x1", npz(changed))
    full = {**published(filters=64, units=(3, 4, 6, 3)).weights, ROOT_KERNEL: changed[ROOT_KERNEL]}
    assert f"1 are misshapen: {ROOT_KERNEL}" in refusal("bit-m-r50x1", npz(full))


def test_published_name_with_a_source_of_its_own(npz, r50x1):
    bit = fetch(Backbone(name="bit-m-r50x1", source=str(npz(r50x1.weights))))
    assert_weights(bit, r50x1)
    assert bit.architecture == Architecture(
        "bit-m-r50x1", groups=32, pool=True, standardized=True, image_size=(224, 224)
    )


@pytest.mark.parametrize("name", ["bit-tiny", "bit-tiny-untrained", "my own"])
def test_source_gives_the_weights_of_any_other_name(npz, name):
    bit = fetch(Backbone(name=name, source=str(npz(published().weights))))
    assert_weights(bit, published())
    assert bit.architecture.name == name


def test_weights_are_held_once(npz, r50x1):
    path = npz(r50x1.weights)
    tracemalloc.start()
    try:
        fetch(Backbone(name="bit-m-r50x1", source=str(path)))
        assert tracemalloc.get_traced_memory()[1] < 1.2 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", ["bit-m-r50x1", "no/such/folder", "google/bit/tensorFlow2/m-r50x1/1"])
def test_unknown_source_lists_the_allowed(source):
    message = refusal("bit-m-r50x1", source)
    assert message.startswith(f"backbone.source is {source!r}: allowed are ")
    for allowed in (".npz", "SavedModel", ".tar.gz", "TF Hub", "Kaggle"):
        assert allowed in message


# Addresses


def test_npz_by_address(npz):
    content = npz(published().weights).read_bytes()
    with server(sends(content)) as (address, asked):
        bit = fetch(Backbone(name=f"{address}/models/BiT.npz"))
        assert_weights(fetch(Backbone(name="mine", source=f"{address}/models/BiT.npz")), published())
    assert asked == ["/models/BiT.npz"]
    assert_weights(bit, published())
    assert bit.architecture.name == "BiT.npz"


@pytest.mark.parametrize("path", ["BiT.npz?download=1", "saved.tar.gz?download=1"])
def test_query_is_no_part_of_the_file_s_name(npz, saved_model, path):
    files = {
        "/BiT.npz": npz(published().weights).read_bytes(),
        "/saved.tar.gz": packed(saved_model(published().weights)),
    }
    with server(lambda handler: sends(files[handler.path.split("?")[0]])(handler)) as (address, _):
        assert_weights(fetch(Backbone(name="mine", source=f"{address}/{path}")), published())


@pytest.mark.parametrize("file", ["BiT.npz", "BiT.tar.gz", "bit/m-r50x1/1"])
def test_address_that_can_t_be_reached_is_named_with_the_way_out(file):
    with closed_port() as address:
        message = refusal("mine", f"{address}/{file}")
    assert message.startswith(f"{address}/{file} can't be fetched")
    assert "download it elsewhere and give its path as backbone.source" in message


@pytest.mark.parametrize("file", ["BiT.npz", "BiT.tar.gz", "bit/m-r50x1/1"])
@pytest.mark.parametrize(
    "respond",
    [lambda handler: handler.send_error(404), sends(b"<html>Log in first</html>")],
    ids=["404", "a page"],
)
def test_failed_download_names_the_address_and_is_not_kept(file, respond):
    with server(respond) as (address, _):
        message = refusal("mine", f"{address}/{file}")
    assert f"{address}/{file} can't be" in message
    assert not [path for path in Path("data/downloads").glob("*") if path.suffix != ".part"]
    assert not list(Path("hub").glob("*"))


# SavedModel


def test_saved_model_by_directory(saved_model):
    assert_weights(fetch(Backbone(name=str(saved_model(with_published_head().weights)))), published())


@pytest.mark.parametrize("inside", [".", "any/folder"])
@pytest.mark.parametrize("name", ["saved.tar.gz", "saved.tgz"])
def test_saved_model_by_archive(saved_model, inside, name):
    Path(name).write_bytes(packed(saved_model(with_published_head().weights), inside))
    assert_weights(fetch(Backbone(name=name)), published())


def test_saved_model_by_address_of_its_archive(saved_model):
    with server(sends(packed(saved_model(with_published_head().weights)))) as (address, asked):
        assert_weights(fetch(Backbone(name="mine", source=f"{address}/saved.tar.gz")), published())
    assert_weights(fetch(Backbone(name="mine", source=f"{address}/saved.tar.gz")), published())
    assert asked == ["/saved.tar.gz"]


def test_handle_is_resolved_by_tf_hub_and_kept_in_its_cache(saved_model):
    with server(sends(packed(saved_model(with_published_head().weights)))) as (address, asked):
        handle = f"{address}/google/bit/m-r50x1/1"
        assert_weights(fetch(Backbone(name="mine", source=handle)), published())
    assert_weights(fetch(Backbone(name="mine", source=handle)), published())
    assert asked == ["/google/bit/m-r50x1/1?tf-hub-format=compressed"]
    assert list(Path("hub").glob("*/saved_model.pb"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("BiT.npz", lambda kept: cut_short(kept)),
        ("saved.tar.gz", lambda kept: cut_short(kept)),
        ("bit/1", lambda kept: cut_short(kept / "saved_model.pb")),
        ("bit/1", lambda kept: (kept / "variables/variables.index").unlink()),
        ("bit/1", lambda kept: [path.unlink() for path in kept.rglob("*") if path.is_file()]),
    ],
)
def test_kept_copy_that_is_damaged_is_fetched_again(saved_model, npz, capsys, name, damage):
    weights = published().weights
    content = npz(weights).read_bytes() if name.endswith("npz") else packed(saved_model(weights))
    with server(sends(content)) as (address, asked):
        backbone = Backbone(name="mine", source=f"{address}/{name}")
        fetch(backbone)
        time.sleep(0.05)
        (kept,) = [
            path for path in (*Path("data").glob("downloads/*"), *Path("hub").glob("*")) if path.suffix != ".txt"
        ]
        damage(kept)
        assert_weights(fetch(backbone), published())
        assert_weights(fetch(backbone), published())
    assert len(asked) == 2
    told = f"the copy of {address}/{name} that was kept is damaged: it is fetched again\n"
    assert capsys.readouterr().err.count(told) == 1
    time.sleep(0.05)
    damage(kept)  # the server is gone
    assert "can't be fetched" in refusal("mine", f"{address}/{name}")


@pytest.mark.parametrize("name", ["BiT.npz", "saved.tar.gz", "bit/1"])
def test_what_is_of_no_use_is_fetched_once(saved_model, name):
    path = saved_model(published().weights)
    (path / "variables/variables.index").unlink()
    content = b"no weights" if name.endswith("npz") else packed(path)
    with server(sends(content)) as (address, asked):
        refusal("mine", f"{address}/{name}")
    assert len(asked) == 1


# Names that may be published


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("bit-tiny", "bit-tiny"),
        ("my own", "my own"),
        ("/home/ann/acme/secret.npz", "secret.npz"),
        ("../acme/secret.npz", "secret.npz"),
        ("~/acme/saved", "saved"),
        ("acme/saved/", "saved"),
        ("https://ann:pw@acme.example/models/BiT.npz?token=abc", "BiT.npz"),
        ("https://acme.example/models/BiT.tar.gz#x", "BiT.tar.gz"),
        ("https://tfhub.dev/google/bit/m-r50x1/1?tf-hub-format=compressed", "tfhub.dev/google/bit/m-r50x1/1"),
        ("https://ann:pw@www.kaggle.com/models/google/bit", "www.kaggle.com/models/google/bit"),
    ],
)
def test_public_name(name, public):
    assert backbones._public(name) == public


def test_architecture_holds_the_public_name(npz):
    path = npz(published().weights)
    bit = fetch(Backbone(name=str(path)))
    bit.save(Path("saved"))
    assert str(path.parent) not in Path("saved/architecture.json").read_text()


def test_source_of_the_home_folder_and_of_an_experiments_project(npz, tmp_path, monkeypatch):
    npz(published().weights, "home.npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_weights(fetch(Backbone(name="mine", source="~/home.npz")), published())
    (tmp_path / "dvc.yaml").write_text("")
    experiment = tmp_path / ".dvc/tmp/exps/tmpabcd"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert_weights(fetch(Backbone(name="mine", source="home.npz")), published())
    assert "no_such_user" in refusal("mine", "~no_such_user/home.npz")


def test_step_counter_is_no_weight(saved_model):
    import tensorflow as tf

    path = saved_model(published().weights, tf.Variable(7, name="global_step", dtype=tf.int64))
    assert_weights(fetch(Backbone(name=str(path))), published())


def test_variable_of_floats_that_is_not_bit_s_is_named(saved_model):
    import tensorflow as tf

    path = saved_model(published().weights, tf.Variable([1.0], name="resnet/group_norm/gamma/Momentum"))
    assert "1 are not BiT's: resnet/group_norm/gamma/Momentum" in refusal(path)


def test_variable_that_is_there_twice_is_named(saved_model):
    import tensorflow as tf

    path = saved_model(published().weights, tf.Variable(published().weights[GAMMA], name=GAMMA))
    assert GAMMA in refusal(path) and str(path) in refusal(path)


def test_folder_that_is_no_saved_model(tmp_path):
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes())),
    ],
    ids=["missing", "cut short", "changed"],
)
def test_damaged_saved_model_is_named(saved_model, file, damage):
    path = saved_model(published().weights)
    damage(path / file)
    assert f"backbone weights {path} can't be read" in refusal(path)


def test_saved_model_of_something_else(tmp_path):
    import tensorflow as tf

    tf.saved_model.save(tf.train.Checkpoint(weight=tf.Variable(1.0)), str(tmp_path / "saved"))
    assert str(tmp_path / "saved") in refusal(tmp_path / "saved")


def test_broken_archive_is_named(saved_model):
    content = packed(saved_model(published().weights))
    for number, broken in enumerate([b"", b"<html>", content[:1000], content[:-1000], packed(Path("saved/variables"))]):
        Path(f"{number}.tar.gz").write_bytes(broken)
        assert f"backbone weights {number}.tar.gz can't be read" in refusal(f"{number}.tar.gz")


def test_archive_can_t_write_outside_its_place(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "evil").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    Path("evil.tar.gz").write_bytes(packed(tmp_path / "evil", "../../written"))
    assert "evil.tar.gz" in refusal("evil.tar.gz")
    assert not (tmp_path / "written").exists()


def test_saved_model_is_not_run(saved_model, tmp_path):
    import tensorflow as tf

    class Started(tf.lookup.KeyValueTensorInitializer):
        """What TensorFlow runs when it loads a SavedModel that has a table."""

        def initialize(self, table):
            with tf.control_dependencies([tf.io.write_file(str(tmp_path / "run"), "by whoever loads it")]):
                return super().initialize(table)

    module = tf.train.Checkpoint()
    module.variables = [tf.Variable(value, name=name) for name, value in published().weights.items()]
    module.table = tf.lookup.StaticHashTable(Started(["a"], [1]), 0)
    module.find = tf.function(module.table.lookup, [tf.TensorSpec([], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    (tmp_path / "run").unlink()
    assert_weights(fetch(Backbone(name=str(tmp_path / "saved"))), published())
    assert not (tmp_path / "run").exists()
    tf.saved_model.load(str(tmp_path / "saved"))
    assert (tmp_path / "run").exists()


def test_what_was_fetched_and_is_of_another_network_is_not_kept(npz):
    content = npz({"conv1/kernel": np.zeros((3, 3))}).read_bytes()
    with server(sends(content)) as (address, _):
        assert "not named as BiT's" in refusal("mine", f"{address}/BiT.npz")
    assert not list(Path("data/downloads").glob("*.npz"))


@pytest.mark.parametrize(
    "source",
    [
        "http://", "https://[", "http://[::1", "http://a b/x.npz", "http://x:99999/x.npz", "https:///x.npz",
        f"http://{'a' * 300}/x.npz", f"http://127.0.0.1:1/{'b' * 400}.npz", "https://user@:pw@/x.npz",
        "http://127.0.0.1:1/{x}.npz", "file:///etc/passwd", "ftp://x/y.npz", "gs://b/x",
        "s3://b/x.npz", "HTTP://127.0.0.1:1/x.npz", f"{'a' * 300}.npz", "~nobody_such/x.npz", ".npz",
        "/dev/null", "/dev/zero.npz",
    ],
)  # fmt: skip
def test_what_is_no_address_or_path_is_told_in_one_line(source):
    assert source in refusal("mine", source)


def test_devices_and_pipes_of_an_archive_are_left_out(saved_model, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    made = []
    monkeypatch.setattr(os, "mknod", lambda *_, **__: made.append("device"))
    monkeypatch.setattr(os, "mkfifo", lambda *_, **__: made.append("pipe"))
    content = io.BytesIO(gzip.decompress(packed(saved_model(published().weights))))
    with tarfile.open(fileobj=content, mode="a:") as archive:
        for name, kind in (("block", tarfile.BLKTYPE), ("character", tarfile.CHRTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor = kind, 1, 3
            archive.addfile(member)
    Path("special.tar.gz").write_bytes(gzip.compress(content.getvalue()))
    assert_weights(fetch(Backbone(name="special.tar.gz")), published())
    assert not made


def test_archive_with_links_is_read_and_they_lead_nowhere_else(saved_model, tmp_path):
    """Two files of equal content are one in an archive of hard links, such as DVC's cache makes."""
    folder = saved_model(with_published_head().weights)
    (folder / "variables" / "variables.index").rename(tmp_path / "index")
    os.link(tmp_path / "index", folder / "a")
    os.link(tmp_path / "index", folder / "variables" / "variables.index")
    (folder / "b").symlink_to("/etc/hostname")
    Path("linked.tar.gz").write_bytes(packed(folder))
    assert "linked.tar.gz" in refusal("linked.tar.gz")
    (folder / "b").unlink()
    Path("linked.tar.gz").write_bytes(packed(folder))
    assert_weights(fetch(Backbone(name="linked.tar.gz")), published())
