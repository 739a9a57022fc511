"""Try a .tflite file in a web page: pictures, the camera, and how long it takes on the device that opens the page.

    python -m ship.demo [--model FILE] [--port 8000] [--host ADDRESS] [--https]

LiteRT.js runs the file in the browser; pictures stay there. npm fetches LiteRT.js once. No TensorFlow.
"""

import argparse
import socket
import sys
import tempfile
from pathlib import Path

from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, printable
from bitlite.workflow.paths import RELEASE
from ship.demo import certificate, server

# Addresses of all interfaces.
EVERYWHERE = ("0.0.0.0", "::")
THIS = ("localhost", "127.0.0.1", "::1")


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    try:
        serve(asked)
    except InputError as error:
        sys.exit(printable(str(error)))


def serve(asked: argparse.Namespace) -> None:
    """Say where the page is, and serve it until Ctrl-C."""
    hosts = ["localhost", *own_address()] if asked.host in EVERYWHERE else [asked.host]
    with tempfile.TemporaryDirectory() as scratch:
        files = server.files(asked.model, Path(scratch))
        tls = certificate.context(["127.0.0.1", *hosts]) if asked.https else None
        with server.Server(asked.host, asked.port, files, tls) as running:
            print(f"{printable(str(asked.model))} is served until Ctrl-C at", flush=True)
            for host in hosts:
                print(f"  {address(host, running.server_port, asked.https)}", flush=True)
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                print("\nstopped")


def parser() -> argparse.ArgumentParser:
    what, _, how = __doc__.split("\n\n")
    found = argparse.ArgumentParser(prog="python -m ship.demo", description=f"{what} {how}")
    found.add_argument("--model", type=Path, default=RELEASE / "model.tflite", metavar="FILE", help="%(default)s")
    found.add_argument("--port", type=port, default=8000, help="%(default)s; 0 takes a free one")
    found.add_argument("--host", default="0.0.0.0", help="127.0.0.1 for this computer alone; else all of its networks")
    found.add_argument(
        "--https", action="store_true", help="for phones, whose browsers give camera, threads and GPU to https alone"
    )
    return found


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is none: 0 to 65535")
    return int(text)


def own_address() -> list[str]:
    """This computer's address in its network, if it is in one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # UDP: this sends nothing. The address is nobody's, but one of documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


def address(host: str, port: int, https: bool) -> str:
    """The address of the page, and for whom it is."""
    url = f"http{'s' * https}://{f'[{host}]' if ':' in host else host}:{port}/"
    if host in THIS:
        return f"{url}  on this computer"
    if https:
        return f"{url}  in its network: browsers warn of the certificate, which is of this run, and can go on"
    return f"{url}  in its network, without camera, threads and GPU: browsers give these to https (--https)"


if __name__ == "__main__":
    run(main)
