"""The server of the page: its own files, the model and LiteRT.js, and nothing else."""

import base64
import fcntl
import hashlib
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import urlsplit

from bitlite.litert.signature import signature
from bitlite.workflow.errors import InputError, one_line
from ship import options

FOLDER = Path(__file__).parent
PAGE = ("index.html", "demo.js", "demo.css", "classify.js")
# Of npm's packages what a browser loads: without JSPI, with which LiteRT.js runs int8 in part and answers wrong.
LITERT_JS = (
    "@litertjs/core/dist/index.js",
    "@litertjs/wasm-utils/dist/index.js",
    *(
        f"@litertjs/core/wasm/litert_wasm_{kind}internal.{suffix}"
        for kind in ("", "compat_", "threaded_")
        for suffix in ("js", "wasm")
    ),
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
}
# Seconds after which a connection is closed on which nothing comes.
PATIENCE = 60


def installed() -> Path:
    """The folder of npm's packages, with LiteRT.js as package-lock.json has it, fetched if it is not there.

    Raises InputError that says what is missing.
    """
    packages = FOLDER / "node_modules"
    wanted = _versions(FOLDER / "package-lock.json")
    with in_turn():
        if _versions(packages / ".package-lock.json") != wanted:
            npm("LiteRT.js", "ci", "--ignore-scripts", "--prefix", FOLDER)
    return packages


def npm(what: str, *arguments: str | Path) -> None:
    """Have npm fetch `what`. Raises InputError if it is missing, or with what it says."""
    if not shutil.which("npm"):
        raise InputError(f"npm is missing, which fetches {what}: install Node.js (apt-get install npm)")
    done = subprocess.run(["npm", *arguments, "--no-audit", "--no-fund"], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"npm could not fetch {what}: {one_line(done.stderr)}")


@contextmanager
def in_turn() -> Iterator[None]:
    """Of processes that come here at the same time, as tests do, one after the other runs the block."""
    with (FOLDER / "package-lock.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _versions(lock: Path) -> dict[str, str]:
    """The packages of a lock file of npm's, each with its version; none if there is no such file."""
    try:
        found = json.loads(lock.read_text())["packages"]
    except FileNotFoundError:
        return {}
    return {name: package["version"] for name, package in found.items() if name}


def described(path: Path) -> dict:
    """What the page must know of the .tflite file at `path` beside what LiteRT.js tells it, for JSON.

    Scores mean (value - zero_point) * scale if scale is not 0, and they are probabilities or logits. Raises InputError
    as options.described does.
    """
    about = options.described(path)
    pixels, scores = signature(path)
    integers = pixels.dtype != "float32"
    # Where the input is of integers, they are the pixels as they are.
    normalization = None if integers else about.normalization
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "labels": about.labels,
        "integers": integers,
        **({"mean": normalization[0].tolist(), "std": normalization[1].tolist()} if normalization else {}),
        "probabilities": about.probabilities,
        "scale": scores.scale,
        "zero_point": scores.zero_point,
    }


def files(model: Path, scratch: Path) -> dict[str, Path]:
    """What is served: paths of URLs, and of files. In `scratch` lie a copy of `model` and what `described` says of it.

    Raises InputError as `described` and `installed` do.
    """
    description, packages = described(model), installed()
    # A workflow that makes the file anew does not change it under a page.
    shutil.copyfile(model, scratch / "model.tflite")
    (scratch / "model.json").write_text(json.dumps(description))
    return {
        "/": FOLDER / "index.html",
        **{f"/{name}": FOLDER / name for name in PAGE},
        **{f"/node_modules/{name}": packages / name for name in LITERT_JS},
        **{f"/{name}": scratch / name for name in ("model.tflite", "model.json")},
    }


class Server(ThreadingHTTPServer):
    """A server of `files` (paths of URLs, and of files) at a host's port; with `certificate`, by TLS.

    Raises InputError if the host is none, or the port is taken or may not be had.
    """

    def __init__(self, host: str, port: int, files: Mapping[str, Path], certificate: ssl.SSLContext | None = None):
        try:
            self.address_family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (OSError, UnicodeError) as error:
            raise InputError(f"--host {host} is no address: {one_line(error)}") from error
        self.files, self.headers = files, headers(files["/"].read_text())
        try:
            super().__init__(address[:2], Handler)  # type: ignore[arg-type]  # (int, bytes) is for Pythons without IPv6
        except OSError as error:
            raise InputError(f"port {port} of {host}: {error.strerror}; choose another by --port") from error
        if certificate:
            # The handshake is for the connection's own thread: who is slow at it holds up nobody.
            self.socket = certificate.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self):
        # HTTPServer's own asks name servers for the host's name.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # bytes are for AF_UNIX

    def handle_error(self, *_):
        """A browser that goes away, or speaks no TLS, is nobody's business."""


class Handler(SimpleHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "demo", ""
    extensions_map = TYPES
    timeout = PATIENCE

    def translate_path(self, path):
        # A path that is in no URL's list leads nowhere.
        return str(self.server.files.get(urlsplit(path).path, FOLDER / "nothing"))

    def end_headers(self):
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


def headers(page: str) -> dict[str, str]:
    """What goes with all files. The scripts that are in `page` itself may run, and no others but files from here."""
    scripts = re.findall(r"<script(?! src)[^>]*>(.*?)</script>", page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts]
    return {
        # Without these two a browser has no SharedArrayBuffer, and WASM no threads.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' {' '.join(hashes)}; style-src 'self'; "
            "img-src 'self' data:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
