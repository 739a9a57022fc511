"""Time all variants on an Android phone by cable, in turns, and write what comes of it to metrics/devices/NAME.

    python -m ship.phone --benchmark-model android_aarch64_benchmark_model

LiteRT's own benchmark_model times them. docs/devices.md tells where to get it, and what is measured.
"""

import argparse
import re
import secrets
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from bitlite.litert.timing import forth_and_back
from bitlite.profiling import machine
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, listed, one_line, printable
from bitlite.workflow.metrics import PhoneTiming
from bitlite.workflow.params import load
from ship import devices

# Where shells of Android may write and run what they wrote.
FOLDER = "/data/local/tmp"
# What `adb devices` says of a phone that does not take commands, and what helps.
STATES = {
    "unauthorized": "unlock it and allow USB debugging from this computer",
    "offline": "pull the cable and plug it in again, or try `adb kill-server`",
    "no permissions": "this user may not use it: install android-sdk-platform-tools-common and plug it in again",
}
# The class and the machine in an ELF file's header, by Android's name of the ABI.
ELF = {
    "arm64-v8a": (2, 183),
    "armeabi-v7a": (1, 40),
    "x86_64": (2, 62),
    "x86": (1, 3),
    "riscv64": (2, 243),
}
INTERPRETER = 3  # type of the segment that names the dynamic linker


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    phone = connected(asked.adb, asked.device)
    check(asked.benchmark_model, phone)
    params = load()
    files = devices.files(params, asked.variants)
    name = asked.name or (devices.safe(phone.model) or "phone") + ("-gpu" if asked.gpu else "")
    cpu = phone.cpu()
    threads = asked.threads or params.benchmark.threads
    flags = {
        "num_threads": threads,
        "warmup_runs": params.benchmark.warmup_runs,
        "num_runs": devices.runs(params),
        "min_secs": devices.SECONDS,
    }
    # The newer of both tools knows use_cpu alone, the older one use_xnnpack; each passes over what it does not know.
    # A file that the GPU takes in part would be timed on both.
    on_gpu = {"use_gpu": "true", "use_cpu": "false", "require_full_delegation": "true"}
    flags |= on_gpu if asked.gpu else {"use_xnnpack": "true"}
    with phone.folder() as folder:
        print(f"sending {len(files)} files to {printable(phone.model)}", flush=True)
        phone.push(asked.benchmark_model, there=f"{folder}/benchmark_model")
        phone.shell("chmod", "755", f"{folder}/benchmark_model")
        phone.push(*files.values(), there=f"{folder}/")
        found = devices.collected(turns(phone, folder, list(files), flags), len(files))
    devices.finish(name, files, found, PhoneTiming, threads=threads, cpu=cpu, gpu=asked.gpu)


def parser() -> argparse.ArgumentParser:
    command = devices.parser("ship.phone", __doc__)
    command.add_argument("--benchmark-model", type=Path, required=True, metavar="PATH", help="the binary for the phone")
    command.add_argument("--device", metavar="SERIAL", help="which phone, if there are several; see `adb devices`")
    command.add_argument("--gpu", action="store_true", help="on the phone's GPU rather than its CPU")
    command.add_argument("--adb", default="adb", metavar="PATH", help="Android's debug bridge (default: adb)")
    return command


class Phone:
    """A phone that takes commands by adb."""

    def __init__(self, adb: str, serial: str):
        self._adb = [adb, "-s", serial]

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self._adb, *command], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
        )

    def ran(self, *words: str) -> subprocess.CompletedProcess:
        """What a command did in the phone's shell."""
        return self._run("shell", shlex.join(words))

    def shell(self, *words: str) -> str:
        """What a command printed there. Raises InputError if it failed."""
        return _printed(self.ran(*words), f"on the phone, {shlex.join(words)}")

    def push(self, *paths: Path, there: str) -> None:
        """Copy a file, or several into a folder. Raises InputError if they can't be."""
        _printed(self._run("push", *(str(path.absolute()) for path in paths), there), "adb push")

    @cached_property
    def properties(self) -> dict[str, str]:
        """What Android knows of itself, those alone that have a value."""
        return dict(re.findall(r"^\[(.+?)\]: \[(.+?)\]\r?$", self.shell("getprop"), re.M))

    @property
    def abis(self) -> list[str]:
        """Kinds of binaries that it runs, the best first."""
        known = self.properties.get("ro.product.cpu.abilist") or self.properties.get("ro.product.cpu.abi", "")
        return known.split(",")

    @property
    def model(self) -> str:
        return self.properties.get("ro.product.model", "phone")

    def cpu(self) -> str:
        """The system on a chip, as the phone names it, and its instructions for integers."""
        parts = [self.properties[key] for key in ("ro.soc.manufacturer", "ro.soc.model") if key in self.properties]
        chip = " ".join(parts) or self.properties.get("ro.board.platform") or self.abis[0]
        return printable(machine.with_instructions(chip, self.shell("cat", "/proc/cpuinfo")))

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A folder on the phone, which goes with all that is in it however the block ends."""
        path = f"{FOLDER}/bitlite-{secrets.token_hex(4)}"
        try:
            self.shell("mkdir", path)
            yield path
        finally:
            self.ran("rm", "-rf", path)


def _printed(done: subprocess.CompletedProcess, what: str) -> str:
    if done.returncode:
        raise InputError(f"{what}: {last_line(done)}")
    return done.stdout


def last_line(done: subprocess.CompletedProcess) -> str:
    return devices.last_line(done.stdout + done.stderr, done.returncode)


def connected(adb: str, serial: str | None) -> Phone:
    """The phone of this serial number, or the only one. Raises InputError that says what to do if there is none."""
    if not (found := shutil.which(adb)):
        raise InputError(
            f"{adb} is not here: install Android's platform tools (Debian: adb), or give the path by --adb"
        )
    listing = subprocess.run([found, "devices"], capture_output=True, encoding="utf-8", errors="replace")
    if listing.returncode:
        raise InputError(f"adb devices: {last_line(listing)}")
    # Notices of a server that starts come before the header, then a line a phone: serial number, tab, state.
    lines = listing.stdout.partition("List of devices attached")[2].splitlines()
    states = dict(line.split("\t", 1) for line in lines if "\t" in line)
    if not states:
        raise InputError("no phone is connected: allow USB debugging in its developer options and plug it in")
    if serial is None and len(states) > 1:
        raise InputError(f"{len(states)} phones are connected: choose by --device: {listed(states)}")
    serial = serial or next(iter(states))
    if serial not in states:
        raise InputError(f"no phone {printable(serial)} is connected; there are: {listed(states)}")
    if (state := states[serial].strip()) != "device":
        help_ = next((text for known, text in STATES.items() if state.startswith(known)), "start it as usual")
        raise InputError(f"the phone {printable(serial)} is {printable(state)}: {help_}")
    return Phone(found, serial)


def check(binary: Path, phone: Phone) -> None:
    """Raise InputError if the file is no program that the phone runs."""
    get = "docs/devices.md tells where to get the right one"
    try:
        with binary.open("rb") as file:
            header = file.read(64)
            if header[:4] == b"PK\3\4":
                raise InputError(f"{binary} is an app or an archive, not the command-line program: {get}")
            if header[:4] != b"\x7fELF" or len(header) < 52:
                raise InputError(f"{binary} is no program of Android or Linux: {get}")
            bits, family = header[4], struct.unpack_from("<H", header, 18)[0]
            kind = next((abi for abi, known in ELF.items() if known == (bits, family)), f"machine {family}")
            if kind not in phone.abis:
                raise InputError(f"{binary} is for {kind}, the phone runs {' and '.join(phone.abis)}: {get}")
            if (linker := _linker(file, header)) and not linker.startswith(b"/system/"):
                raise InputError(
                    f"{binary} is for Linux, not for Android: it wants {printable(linker.decode())}; {get}"
                )
    except OSError as error:
        raise InputError(f"{binary} can't be read ({one_line(error.strerror)}): {get}") from None


def _linker(file, header: bytes) -> bytes:
    """The dynamic linker that an ELF file names; empty if it is linked statically."""
    wide = header[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", header, 32 if wide else 28)
    entry, count = struct.unpack_from("<HH", header, 54 if wide else 42)
    file.seek(table)
    segments = file.read(entry * count)
    for start in range(0, len(segments) - entry + 1, max(entry, 1)):
        if struct.unpack_from("<I", segments, start)[0] == INTERPRETER:
            offset, length = struct.unpack_from("<Q16xQ" if wide else "<I8xI", segments, start + (8 if wide else 4))
            file.seek(offset)
            return file.read(length).rstrip(b"\0")
    return b""


def turns(
    phone: Phone, folder: str, variants: list[str], flags: Mapping[str, object]
) -> Iterator[tuple[str, dict | devices.Refusal]]:
    """Each variant's turns by benchmark_model with these flags. One that it refuses has no more."""
    for variant in forth_and_back(variants, devices.ROUNDS):
        graph = f"--graph={folder}/{variant}.tflite"
        done = phone.ran(f"{folder}/benchmark_model", graph, *(f"--{key}={value}" for key, value in flags.items()))
        if done.returncode:
            phone.shell("true")  # raises if it is the phone that is gone
        found = devices.Refusal(last_line(done)) if done.returncode else parsed(done.stdout + done.stderr)
        if isinstance(found, devices.Refusal):
            variants.remove(variant)
        yield variant, found


def parsed(output: str) -> dict | devices.Refusal:
    """The fields of PhoneTiming that benchmark_model prints: TensorFlow Lite's, or LiteRT's for CompiledModel.

    Both have a line of statistics, in microseconds, for the runs that do not count and one for those that do:
    BenchmarkModel::Run of tflite/tools/benchmark/benchmark_model.cc, in google-ai-edge/LiteRT as of August 2026.
    """
    statistics = [dict(re.findall(r"(\w+)=(\d+)", line)) for line in re.findall(r"^INFO: (count=.*)$", output, re.M)]
    loaded = re.search(r"Initialized session in ([\d.e+]+)ms", output)
    # A growth of the most that was held, in MiB: BenchmarkLoggingListener there, and of litert/tools/.
    memory = re.search(r"Memory footprint delta .* overall=([\d.e+]+)|Overall footprint: +([\d.]+) MB", output)
    if len(statistics) != 2 or not loaded or not memory:
        last = output.strip().splitlines()[-1:] or ["nothing"]
        return devices.Refusal(f"benchmark_model printed no times; its last line: {listed(last)}")
    first, counted = statistics
    if "median" not in counted:
        return devices.Refusal("this benchmark_model is too old, it prints no median: get a newer one")
    return {
        "latency_ms_p50": int(counted["median"]) / 1000,
        "latency_ms_p95": int(counted["p95"]) / 1000,
        "load_ms": float(loaded[1]),
        # Of one run, or of several that took the same time, there is no first.
        "first_inference_ms": int(first["first" if "first" in first else "curr"]) / 1000,
        "peak_memory_mb": float(memory[1] or memory[2]) * 2**20 / 1e6,
    }


if __name__ == "__main__":
    run(main)
