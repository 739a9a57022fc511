"""Try a .tflite file in a web page: pictures, the camera, and how long it takes on the device that opens the page.

    python -m ship.demo
    python -m ship.demo --https --model models/tflite/dense-int8.tflite

LiteRT.js runs the file in the browser; pictures stay there. npm fetches LiteRT.js once. No TensorFlow.
"""

import argparse
import socket
import tempfile
from pathlib import Path

from bitlite.workflow.command import run
from bitlite.workflow.errors import printable
from ship import options
from ship.demo import certificate, server

# Addresses of all interfaces.
EVERYWHERE = ("0.0.0.0", "::")
THIS = ("localhost", "127.0.0.1", "::1")


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    hosts = ["localhost", *own_address()] if asked.host in EVERYWHERE else [asked.host]
    with tempfile.TemporaryDirectory() as scratch:
        files = server.files(asked.model, Path(scratch))
        tls = certificate.context(["127.0.0.1", *hosts]) if asked.https else None
        with server.Server(asked.host, asked.port, files, tls) as running:
            print(told(asked.model, hosts, running.server_port, asked.https), flush=True)
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                print("\nstopped")


def parser() -> argparse.ArgumentParser:
    command = options.parser("ship.demo", __doc__)
    options.add_model(command)
    command.add_argument(
        "--port", type=options.whole(0, 2**16 - 1), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    command.add_argument(
        "--host", default="0.0.0.0", help="127.0.0.1: this computer alone (default: %(default)s, all its networks)"
    )
    command.add_argument(
        "--https", action="store_true", help="for phones, whose browsers give camera, threads and GPU to https alone"
    )
    return command


def own_address() -> list[str]:
    """This computer's address in its network, if it is in one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # UDP: this sends nothing. The address is nobody's, but one of documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


def told(model: Path, hosts: list[str], port: int, https: bool) -> str:
    """What the console says: the addresses of the page, and what browsers make of those for other devices."""
    urls = [f"http{'s' * https}://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]
    width = max(map(len, urls))
    others = [host for host in hosts if host not in THIS]
    lines = [f"{printable(str(model))} is served until Ctrl-C:"]
    for host, url in zip(hosts, urls, strict=True):
        lines.append(
            f"  {url:{width}}  " + ("on phones and others in its network" if host in others else "on this computer")
        )
    if others and https:
        lines.append("Browsers warn of the certificate, which is of this run alone: let them go on.")
    elif others:
        lines.append("There browsers have camera, threads and GPU by https alone: --https")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
