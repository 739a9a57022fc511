"""Servers on loopback, for tests of what is fetched."""

import contextlib
import http.server
import re
import socket
import threading


@contextlib.contextmanager
def server(respond):
    """The address of a server that answers every GET by `respond`, and the paths asked for as a list."""
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


@contextlib.contextmanager
def closed_port():
    """The address of a port that nothing listens at."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextlib.contextmanager
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def sends(content: bytes, length: int | None = None, **headers):
    """Answers with all of `content`."""

    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return respond


class Flaky:
    """Serves a file as web servers do, but the first `breaks` answers end half way through what they should send.

    ranges: whether it heeds Range and If-Range. `asked_from` lists the first byte that each request asked for.
    """

    def __init__(self, content: bytes, *, breaks: int = 0, tag: str = '"1"', ranges: bool = True, **headers):
        self.content, self.breaks, self.tag, self.ranges, self.headers = content, breaks, tag, ranges, headers
        self.asked_from = []

    def __call__(self, handler):
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        start = int(wanted[1]) if wanted else 0
        self.asked_from.append(start)
        if not self.ranges or handler.headers["If-Range"] != self.tag:
            start = 0
        if start >= len(self.content):
            return handler.send_error(416)
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", self.tag)
        for name, value in self.headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body[: -(-len(body) // 2)] if self.breaks else body)
        self.breaks = max(self.breaks - 1, 0)
