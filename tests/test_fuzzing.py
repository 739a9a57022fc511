"""Made-up inputs, 2,000 in all and the same each time: what can't be used is refused in one line, and nothing is lost.

Hypothesis makes them from good ones, by cutting, doubling, changing and putting in; see its `settings` below.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import encoded, noise

from bitlite.backbones.backbone import fetch
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.sources import folder
from bitlite.workflow import params
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Backbone


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def told(use: Callable, *arguments) -> None:
    """`use` comes to an end, or is refused in one line that can be read."""
    try:
        use(*arguments)
    except InputError as error:
        assert str(error) and len(str(error).splitlines()) == 1 and len(str(error)) < 5000


def contents(root: Path) -> dict[str, bytes | str | None]:
    """All that lies below `root`: bytes of files, targets of links, None for folders."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


@st.composite
def damaged(draw, whole: bytes, pieces: tuple[bytes, ...] = ()) -> bytes:
    """`whole` after one to four changes at places of its own."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        old = content[start : start + draw(st.sampled_from([0, 1, 2, 4, 8, 40, len(content)]))]
        changes = [st.binary(max_size=8), st.just(old * 2), st.builds(flipped, st.just(old), st.integers(0, 7))]
        new = draw(st.one_of(*changes, *map(st.sampled_from, [pieces] if pieces else [])))
        content = content[:start] + new + content[start + len(old) :]
    return content


def flipped(content: bytes, bit: int) -> bytes:
    return bytes(byte ^ 1 << bit for byte in content)


PARAMS = """seed: 3
dataset: {name: mnist5k, validation: 0.1, group: "a(b)", on_error: skip}
backbone:
  name: bit-tiny
finetune: {steps: auto, batch_size: 12, learning_rate: 3e-2, image_size: 16, resize: 18, mixup: 0.1, flip: no}
pruning:
  dense: &dense {method: none}
  both:
    method: combine
    parts: [{method: channels, keep: 0.5, rounds: 2}, {method: magnitude, layers: [resnet/*], sparsity: 0.6}]
  frozen: {method: norm_free, norms: auto, target_norms: 0.5}
quantization:
  float32: {scheme: float32}
  int8: {scheme: int8, calibration_images: 12}
  some: {scheme: int8_mixed, keep_float: [resnet/*]}
where: {images: 2, npu: {accelerator: ethos-u65-256, system_config: Ethos_U65_High_End}}
benchmark: {threads: 2, warmup_runs: 1, runs: 20}
compare: {baseline: dense-float32, max_accuracy_drop: .02, max_size_bytes: 1_000, objective: latency}
"""
YAML_PIECES = tuple(
    piece.encode()
    for piece in (
        *":-?#&*!|>'\"%@`{}[],\n\t\0\x1b\x85\ufeffé模",
        "null", "~", "true", "1e999", "-0", "0x1F", ".nan", ".inf", "2024-01-01", "1:30", "9" * 400, "<<: *dense",
        "*dense", "&a [*a]", "!!bool x", "!!float x", "!!int ''", "!!set {a}", "!!binary x", "!!timestamp x",
        "!!omap [a: 1]", "!!python/name:os.system", "!!null x", "!!str [a]", "!!map [a]", "--- ", "...",
        "%YAML 1.1\n---\n", "{a: " * 60, "[" * 300, "? [a, b]\n: 1\n", "auto", "none", "\n  ", "\r\n", "\r", "  - ",
    )
)  # fmt: skip


@examples(900)
@given(damaged(PARAMS.encode(), YAML_PIECES))
def test_params(content):
    with TemporaryDirectory() as directory:
        path = Path(directory, "params.yaml")
        path.write_bytes(content)
        told(params.load, path)
        assert contents(path.parent) == {"params.yaml": content}


@examples(100)
@given(st.text(st.characters(codec="utf-8")))
def test_params_of_any_text(text):
    with TemporaryDirectory() as directory:
        path = Path(directory, "params.yaml")
        path.write_text(text, encoding="utf-8")
        told(params.load, path)


SMALL = untrained("small", Shape(filters=16, units=(1,), groups=16, root=3, pool=False, image_size=(32, 32)), seed=0)


@cache
def npz() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.npz")
        np.savez_compressed(path, **SMALL.weights)
        return path.read_bytes()


NPZ_PIECES = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\xff\xff\xff\xff", b"\0\0\0\0", b".npy", b"\x93NUMPY\x01\0", b"'|O'")


@examples(500)
@given(damaged(npz(), NPZ_PIECES))
def test_npz(content):
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.npz")
        path.write_bytes(content)
        told(fetch, Backbone(name=str(path)))
        assert contents(path.parent) == {"a.npz": content}


@cache
def saved_model() -> dict[str, bytes | None]:
    import tensorflow as tf

    with TemporaryDirectory() as directory:
        module = tf.train.Checkpoint()
        module.variables = [tf.Variable(value, name=name) for name, value in SMALL.weights.items()]
        tf.saved_model.save(module, directory)
        return contents(Path(directory))


@examples(300)
@given(st.data())
def test_saved_model(data):
    files = {name: content for name, content in saved_model().items() if content is not None}
    name = data.draw(st.sampled_from(["saved_model.pb", "variables/variables.index", *sorted(files)]))
    files[name] = data.draw(damaged(files[name]))
    with TemporaryDirectory() as directory:
        root = Path(directory)
        for name, content in files.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
        before = contents(root)
        told(fetch, Backbone(name=directory))
        assert contents(root) == before


PICTURES = [
    encoded(noise(seed), kind, **more)
    for seed, (kind, more) in enumerate(
        [("PNG", {}), ("JPEG", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {}), ("JPEG", {"quality": 30}),
         ("TIFF", {"compression": "tiff_lzw"})]
    )
]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["a", "b", "train", "Test", "val", "images", "masks", ".hidden", "a\n", "\x1b[2J", "é", "e\u0301",
                     "<b>", "{x}", "A", "a ", "Thumbs.db"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
        lambda name: name not in (".", "..")
    ),
)  # fmt: skip
ENDINGS = st.sampled_from([".png", ".jpg", ".JPEG", ".gif", ".tif", ".bmp", ".webp", ".heic", ".txt", ""])


@examples(200)
@given(st.data())
def test_folder(data):
    with TemporaryDirectory() as directory:
        root = Path(directory, "set")
        root.mkdir()
        for number in range(data.draw(st.integers(0, 8))):
            place = root.joinpath(*data.draw(st.lists(NAMES, max_size=3)))
            path = place / f"{data.draw(NAMES)}{data.draw(ENDINGS)}"
            picture = data.draw(st.sampled_from(PICTURES))
            kind = data.draw(st.sampled_from(["picture", "picture", "picture", "damaged", "link", "folder", "loop"]))
            try:
                place.mkdir(parents=True, exist_ok=True)
                if kind in ("picture", "damaged"):
                    path.write_bytes(picture if kind == "picture" else data.draw(damaged(picture)))
                elif kind == "folder":
                    path.mkdir()
                else:
                    path.symlink_to(root if kind == "loop" else Path(directory, f"nowhere{number}"))
            except OSError:  # a file where a folder should be, or the other way round
                continue
        before = contents(root)

        def all_of_it() -> None:
            group = data.draw(st.sampled_from([None, "^(.)"]))
            source = folder.source(root, skip=data.draw(st.booleans()), group=group)
            for split, entries in source.splits.items():
                assert len(list(source.fetch(split, entries))) == len(entries)

        told(all_of_it)
        assert contents(root) == before
