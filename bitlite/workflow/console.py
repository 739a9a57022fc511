"""What libraries write to the console beside a stage's own lines."""

import atexit
import os
import socket
import subprocess
import sys

# Lines that TensorFlow and LiteRT write whatever the log level, that nothing is wrong, or that there is no GPU; and
# libtiff's, which do not say of which file: what can't be read is told with its path.
NOTICES = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    r"I[0-9]{4} [0-9:.]+ +[0-9]+ [^ ]+:[0-9]+\] ",
    r"E[0-9]{4} [0-9:.]+ +[0-9]+ cuda_platform\.cc:[0-9]+\] failed call to cuInit: .*UNKNOWN ERROR \(303\)",
    r"INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.",
    r"fully_quantize: 0, inference_type: ",
    r"(tempfile\.tif|TIFF[A-Za-z]+|(LZW|ZIP|Fax[34]|PackBits|JPEG|LogLuv|PixarLog|Thunder)[A-Za-z0-9]*): ",
)


def drop_notices() -> None:
    """Drop NOTICES from what libraries in C++ write to standard error; what Python writes goes there as before.

    A process of its own passes the other lines on at once, so that they show even if this one crashes.
    """
    console = os.dup(2)
    sys.stderr = os.fdopen(console, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    # A pipe would end only when every process that inherits it has ended, a socket can be shut down.
    ours, theirs = socket.socketpair()
    command = ["grep", "--text", "--line-buffered", "--invert-match", "--extended-regexp", f"^({'|'.join(NOTICES)})"]
    # In a session of its own it outlives an interrupt from the keyboard.
    passing = subprocess.Popen(command, stdin=theirs.fileno(), stdout=console, start_new_session=True)
    theirs.close()
    os.dup2(ours.fileno(), 2)

    @atexit.register
    def finish() -> None:
        os.dup2(console, 2)
        ours.shutdown(socket.SHUT_WR)
        passing.wait()
