"""LiteRT's C API by ctypes, as far as its profiler needs it. No TensorFlow.

Python's interpreter has no profiler. The C API has one (litert/c/litert_profiler.h), in the library that the package
ai-edge-litert ships; with it XNNPACK names each operator that it runs and the time it took.
"""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import ai_edge_litert
import numpy as np


class Event(NamedTuple):
    """An operator that ran: XNNPACK's, or one that LiteRT ran itself, which is the file's operator number `node`."""

    name: str
    node: int | None
    microseconds: float


@contextmanager
def profiled(path: Path, threads: int) -> Iterator["Profiled"]:
    """The .tflite file at `path`, ready to run on so many threads until the block ends."""
    with ExitStack() as stack:
        yield Profiled(path, threads, stack)


class _ProfilerEvent(ctypes.Structure):
    """ProfiledEventData of litert/c/litert_profiler_event.h: two memory usages of three numbers each, not read here.

    Not a stable interface: requirements.txt pins the version of LiteRT that it is of.
    """

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_uint32),
        ("start", ctypes.c_uint64),
        ("microseconds", ctypes.c_uint64),
        ("memory", ctypes.c_uint64 * 6),
        ("node", ctypes.c_uint64),
        ("unused", ctypes.c_uint64),
        ("source", ctypes.c_uint32),
    )


class _EnvironmentOption(ctypes.Structure):
    """LiteRtEnvOption of litert/c/litert_environment_options.h with an integer.

    Its tags: 24 for the accelerators to look for, 25 for the least severity of the messages to print.
    """

    _fields_ = (("tag", ctypes.c_int32), ("any_type", ctypes.c_int64), ("value", ctypes.c_int64))


# tflite::Profiler::EventType: an operator that LiteRT ran itself, and one of a delegate's own.
_OWN, _DELEGATES = 2, 8
_CPU = 1
_ERROR = 3
_LOCK_TO_WRITE = 1


class Profiled:
    """A .tflite file compiled by LiteRT for the CPU, with its profiler."""

    def __init__(self, path: Path, threads: int, stack: ExitStack):
        (library,) = Path(ai_edge_litert.__file__).parent.glob("libLiteRt.*")
        self.litert = ctypes.CDLL(str(library))
        self.stack = stack
        self.kept: list[object] = []  # what LiteRT still needs
        quiet = (_EnvironmentOption * 2)(_EnvironmentOption(24, 2, _CPU), _EnvironmentOption(25, 2, _ERROR))
        environment = self._create("Environment", len(quiet), quiet)
        options = self._create("Options")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._add(options, b"xnnpack", f"num_threads = {threads}")
        self._add(options, b"runtime_options_string", "enable_profiling = true")
        model = self._create("Model", environment, str(path).encode(), suffix="FromFile")
        self.compiled = self._create("CompiledModel", environment, model, options)
        self.profiler = self._get("LiteRtCompiledModelGetProfiler", self.compiled)
        subgraph = self._get("LiteRtGetModelSubgraph", model, ctypes.c_size_t(0))
        self.input, self.output = (self._buffer(environment, subgraph, kind) for kind in ("Input", "Output"))

    def write(self, image: np.ndarray) -> None:
        """Make `image`, of the input's type, the input of all runs from here on."""
        content = image.tobytes()
        memory = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", self.input, ctypes.byref(memory), _LOCK_TO_WRITE)
        ctypes.memmove(memory, content, len(content))
        self._call("LiteRtUnlockTensorBuffer", self.input)

    def run(self) -> None:
        one, signature = ctypes.c_size_t(1), ctypes.c_size_t(0)
        buffers = one, ctypes.byref(self.input), one, ctypes.byref(self.output)
        self._call("LiteRtRunCompiledModel", self.compiled, signature, *buffers)

    def profile(self) -> list[Event]:
        """The operators of one run, in running order."""
        self._call("LiteRtResetProfiler", self.profiler)
        self._call("LiteRtStartProfiler", self.profiler)
        self.run()
        self._call("LiteRtStopProfiler", self.profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        events = (_ProfilerEvent * count.value)()
        self._call("LiteRtGetProfilerEvents", self.profiler, count, events)
        return [
            Event(event.tag.decode(), event.node if event.type == _OWN else None, event.microseconds)
            for event in events
            if event.type in (_OWN, _DELEGATES)
        ]

    def _buffer(self, environment, subgraph, kind: str):
        tensor = self._get(f"LiteRtGetSubgraph{kind}", subgraph, ctypes.c_size_t(0))
        # LiteRtRankedTensorType holds 8 dimensions and strides at most; only LiteRT reads it.
        shape = ctypes.create_string_buffer(256)
        self._call("LiteRtGetRankedTensorType", tensor, shape)
        first = ctypes.c_size_t(0), ctypes.c_size_t(0)
        needs = self._get(f"LiteRtGetCompiledModel{kind}BufferRequirements", self.compiled, *first)
        return self._create("TensorBuffer", environment, shape, needs, prefix="Managed", suffix="FromRequirements")

    def _add(self, options, name: bytes, toml: str) -> None:
        content = ctypes.create_string_buffer(toml.encode())
        # LiteRT calls this back when it is done with the text; until then neither must be collected.
        release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        self.kept += [content, release]
        self._call("LiteRtAddOpaqueOptions", options, self._get("LiteRtCreateOpaqueOptions", name, content, release))

    def _create(self, kind: str, *arguments, prefix: str = "", suffix: str = "") -> ctypes.c_void_p:
        handle = self._get(f"LiteRtCreate{prefix}{kind}{suffix}", *arguments)
        self.stack.callback(getattr(self.litert, f"LiteRtDestroy{kind}"), handle)
        return handle

    def _get(self, function: str, *arguments) -> ctypes.c_void_p:
        result = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(result))
        return result

    def _call(self, function: str, *arguments) -> None:
        if status := getattr(self.litert, function)(*arguments):
            raise RuntimeError(f"{function} failed with status {status}")
