"""Where the time of a .tflite file goes: LiteRT's profile of its operators, summed up by BiT's layers. No TensorFlow.

Python's interpreter has no profiler. LiteRT's C API has one, in the library that the ai-edge-litert package ships
(litert/c/litert_profiler.h), and with it XNNPACK names each operator that it runs and the time it took.
"""

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ai_edge_litert
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from tqdm import tqdm

from bitlite.litert import runtime

COLUMNS = ("layer", "type", "delegate", "time_share", "operators")
XNNPACK = "xnnpack"
# Runs in a turn that count, and before them, because the other's turn has emptied the caches.
ROUND, WARMUP = 10, 2

# What XNNPACK calls its operators for each of TFLite's. One that is not here counts to the layer of the one before.
XNNPACK_NAMES = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "Average Pooling",
    "BATCH_MATMUL": "Batch Matrix Multiply",
    "CONCATENATION": "Copy",
    "CONV_2D": ("Convolution", "Fully Connected"),
    "DEPTHWISE_CONV_2D": "Convolution",
    "DEQUANTIZE": "Convert",
    "FULLY_CONNECTED": "Fully Connected",
    "MAX_POOL_2D": "Max Pooling",
    "MEAN": "Mean",
    "MUL": ("Multiply", "Square"),
    "PAD": "Constant Pad",
    "QUANTIZE": "Convert",
    "RESHAPE": "Static Reshape",
    "RSQRT": "Reciprocal Square Root",
    "SQUARE": "Square",
    "SQUARED_DIFFERENCE": "Squared Difference",
    "STRIDED_SLICE": "Slice",
    "SUB": "Subtract",
    "SUM": "Sum",
}
# XNNPACK runs each of these as one operator, whatever it does to its neighbours.
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# A layer of weights ends with its name; what follows in a tensor's name is the operator.
WEIGHTED = re.compile(r"(?:.*/)?(?:standardized_conv2d|conv2d|group_norm)(?=/|$)")
TYPES = {"conv2d": "conv", "standardized_conv2d": "conv", "group_norm": "norm"}
# XNNPACK adds integers if each input's scale over the output's is at least the one and below the other.
SUM_SCALES = (2**-10, 2**8)


@dataclass(frozen=True)
class Event:
    """An operator that ran: XNNPACK's, or one that LiteRT ran itself, which is the file's operator number `node`."""

    name: str
    node: int | None
    microseconds: float


@dataclass(frozen=True)
class Recording:
    """The events of one run in running order, and the microseconds that LiteRT's interpreter takes for a run."""

    events: list[Event]
    microseconds: float


@dataclass(frozen=True)
class Operator:
    """An operator of a file that runs for each image.

    node: its number in the file. type: in TFLite's words. layer: of BiT, that it serves. inputs, output: its tensors,
    as the flatbuffer describes them.
    """

    node: int
    type: str
    layer: str
    inputs: tuple
    output: object


def operators(path: Path) -> list[Operator]:
    """The operators of a .tflite file in running order, without those of constants alone, which run once."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    constant = {i for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
    found, layer = [], "input"
    for node, operator in enumerate(graph.operators):
        inputs = [i for i in operator.inputs if i >= 0]
        if constant.issuperset(inputs):
            constant |= set(operator.outputs)
            continue
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        output = graph.tensors[operator.outputs[0]]
        # A name without a path is the converter's own: the operator serves the layer before it.
        layer = _layer(output.name.decode(), kind) or layer
        found.append(Operator(node, kind, layer, tuple(graph.tensors[i] for i in inputs), output))
    return found


def record(path: Path, image: np.ndarray, *, threads: int, rounds: int) -> Recording:
    """What runs for `image` [height, width, 3] in 0..255, and how long it takes.

    The interpreter and the profiler take turns of ROUND runs, so that both meet the same machine. A time is the mean of
    the middle half of all runs, so that what else the machine did stays out.
    """
    classifier = runtime.Classifier(path, threads)
    whole, profiles = [], []
    with ExitStack() as stack:
        litert = _Profiled(path, threads, stack)
        litert.write(image.astype(classifier.input["dtype"]))
        for _ in tqdm(range(rounds), "profile", leave=False, disable=None):
            whole.append(classifier.latencies(image, warmup_runs=WARMUP, runs=ROUND) * 1000)
            profiles += [litert.profile() for _ in range(WARMUP + ROUND)][WARMUP:]
    (ran,) = {tuple((name, node) for name, node, _ in profile) for profile in profiles}
    times = _middle([[microseconds for _, _, microseconds in profile] for profile in profiles])
    events = [Event(name, node, taken) for (name, node), taken in zip(ran, times.tolist(), strict=True)]
    return Recording(events, float(_middle(np.concatenate(whole))))


def _middle(runs: Sequence) -> np.ndarray:
    """Means of the middle half of numbers [runs, ...]."""
    ordered = np.sort(runs, axis=0)
    return ordered[len(runs) // 4 : len(runs) - len(runs) // 4].mean(axis=0)


def layers(file: Sequence[Operator], recording: Recording) -> Iterator[dict[str, str | float | int]]:
    """A row of COLUMNS for each layer of a file of `operators`, in running order.

    `type` is conv, norm or other. `delegate` is "xnnpack", or the operators that it leaves to LiteRT and why.
    `time_share`, 0..1, is the layer's part of the run, and `operators` is their number. XNNPACK rounds its times down
    to whole microseconds: what the events lack to the whole run is spread evenly over them.
    """
    ran = recording.events
    missing = max(0.0, recording.microseconds - sum(event.microseconds for event in ran)) / len(ran)
    taken = dict.fromkeys((operator.layer for operator in file), 0.0)
    for event, layer in zip(ran, layers_of(file, ran), strict=True):
        taken[layer] += event.microseconds + missing
    whole, left = sum(taken.values()), _left(ran)
    for layer, microseconds in taken.items():
        own = [operator for operator in file if operator.layer == layer]
        refused = dict.fromkeys(_refusal(operator) for operator in own if operator.node in left)
        yield {
            "layer": layer,
            "type": TYPES.get(layer.rpartition("/")[2], "other"),
            "delegate": "; ".join(refused) or XNNPACK,
            "time_share": microseconds / whole,
            "operators": len(own),
        }


def delegated(file: Sequence[Operator], recording: Recording) -> float:
    """The share of a file's `operators` that XNNPACK runs, 0..1."""
    left = _left(recording.events)
    return sum(operator.node not in left for operator in file) / len(file)


def layers_of(file: Sequence[Operator], ran: Sequence[Event]) -> list[str]:
    """The layer of each event.

    XNNPACK does not say which operators of the file it made its own of. It keeps their order, runs each convolution as
    one and joins or splits others, so an event is the next operator of its kind before the next convolution.
    """
    places = {operator.node: place for place, operator in enumerate(file)}
    found, place, layer = [], 0, file[0].layer
    for event in ran:
        match = places.get(event.node) if event.node is not None else _next(file, place, event.name)
        if match is not None:
            place, layer = match + 1, file[match].layer
            found.append(layer)
        elif event.name.startswith("Convert"):  # of what a convolution of integers reads
            found.append(next((o.layer for o in file[place:] if o.type in CONVOLUTIONS), layer))
        else:
            found.append(layer)
    return found


def _next(file: Sequence[Operator], place: int, name: str) -> int | None:
    for match in range(place, len(file)):
        if name.startswith(XNNPACK_NAMES.get(file[match].type, ())):
            return match
        if file[match].type in CONVOLUTIONS:
            return None
    return None


def _left(ran: Sequence[Event]) -> set[int]:
    """The numbers of the operators that XNNPACK leaves to LiteRT."""
    return {event.node for event in ran if event.node is not None}


def _layer(name: str, kind: str) -> str:
    """BiT's path of the layer that an operator of a type serves, from the name of its output; "" if that has none.

    Where the converter joined operators, it joins their names by semicolons.
    """
    paths = [part.partition("/")[2] for part in name.split(";")]
    if kind in CONVOLUTIONS:
        paths.sort(key=lambda path: "conv2d" not in path)
    weighted = WEIGHTED.match(paths[0])
    return weighted[0] if weighted else paths[0].rpartition("/")[0]


def _refusal(operator: Operator) -> str:
    """An operator that XNNPACK does not run, and why as far as the file tells."""
    types = [flatbuffer_utils.type_to_name(tensor.type).lower() for tensor in (operator.inputs[0], operator.output)]
    scales = [_scale(tensor) for tensor in (*operator.inputs, operator.output)]
    if types[0] != types[1]:
        return f"{operator.type} from {types[0]} to {types[1]}"
    if operator.type in ("ADD", "SUB") and all(scales):
        low, high = SUM_SCALES
        if not all(low <= scale / scales[-1] < high for scale in scales[:-1]):
            return f"{operator.type} of {types[0]} (scales too far apart)"
    return f"{operator.type} of {types[0]}"


def _scale(tensor) -> float | None:
    found = tensor.quantization and tensor.quantization.scale
    return None if found is None or len(found) == 0 else float(found[0])


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


class _Profiled:
    """A .tflite file compiled by LiteRT for the CPU with its profiler, until `stack` is closed."""

    def __init__(self, path: Path, threads: int, stack: ExitStack):
        (library,) = Path(ai_edge_litert.__file__).parent.glob("libLiteRt.*")
        self.litert = ctypes.CDLL(str(library))
        self.stack, self.kept = stack, []
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
        content = image.tobytes()
        memory = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", self.input, ctypes.byref(memory), _LOCK_TO_WRITE)
        ctypes.memmove(memory, content, len(content))
        self._call("LiteRtUnlockTensorBuffer", self.input)

    def run(self) -> None:
        one, signature = ctypes.c_size_t(1), ctypes.c_size_t(0)
        buffers = one, ctypes.byref(self.input), one, ctypes.byref(self.output)
        self._call("LiteRtRunCompiledModel", self.compiled, signature, *buffers)

    def profile(self) -> list[tuple[str, int | None, int]]:
        """Name, number in the file if LiteRT ran it itself, and microseconds of each operator of one run, in order."""
        self._call("LiteRtResetProfiler", self.profiler)
        self._call("LiteRtStartProfiler", self.profiler)
        self.run()
        self._call("LiteRtStopProfiler", self.profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        events = (_ProfilerEvent * count.value)()
        self._call("LiteRtGetProfilerEvents", self.profiler, count, events)
        return [
            (event.tag.decode(), event.node if event.type == _OWN else None, event.microseconds)
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
