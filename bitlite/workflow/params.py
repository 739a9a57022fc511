"""params.yaml, checked as a whole: every stage calls `load()` before any work."""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, ClassVar, Literal, Self, overload

from PIL import ImageColor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitlite.workflow.errors import InputError, one_line

# How values are told: a few lines of YAML can stand for millions of them.
BRIEF = Repr()
BRIEF.maxstring = BRIEF.maxother = BRIEF.maxlong = 200
BRIEF.maxlevel = 3

Threads = Annotated[int, Field(ge=1, le=256)]
Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
# 0 < share < 1
ProperShare = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A variant's name becomes part of stage names, of file names and of dotted keys of params.yaml.
# Two of them, what they end in and what else scratch is called must fit into 255 bytes.
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]
Pixels = Annotated[int, Field(ge=8, le=2048)]
Padding = Annotated[int, Field(ge=0, le=2048)]
RateSchedule = Literal["hyperrule", "cosine", "constant"]


def _compiles(pattern: str) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if compiled.groups > 1:
        raise ValueError("a pattern may have one pair of parentheses, beside (?:...)")
    return pattern


# A regular expression, which may have one group.
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]


class Section(BaseModel):
    """A mapping of params.yaml: no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        unknown = [key for key in data if key not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            raise ValueError(f"unknown key {BRIEF.repr(unknown[0])}; allowed: {', '.join(cls.model_fields)}")
        return data


def _opaque(color: str) -> str:
    if len(ImageColor.getrgb(color)) != 3:
        raise ValueError("a colour to lay transparent pixels on is not transparent itself")
    return color


# A name of CSS, or #rrggbb.
Color = Annotated[str, AfterValidator(_opaque)]


class Dataset(Section):
    name: Annotated[str, Field(min_length=1)]
    data_dir: str | None = None
    validation: ProperShare = 0.15
    test: ProperShare = 0.15
    examples_per_class: Positive | None = None
    max_examples: Positive | None = None
    background: Color = "white"
    on_error: Literal["fail", "skip"] = "fail"
    group: Pattern | None = None

    @model_validator(mode="after")
    def _leaves_training_images(self):
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test is {self.validation + self.test:g}, which leaves nothing to train on")
        return self


def _of_one_line(place: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", place):
        raise ValueError("neither paths nor addresses have control characters")
    return place


# Where something lies.
Place = Annotated[str, Field(min_length=1), AfterValidator(_of_one_line)]


class Backbone(Section):
    name: Place
    source: Place | None = None


class Finetune(Section):
    trainable: Literal["all", "head", "last_block"] = "all"
    steps: Auto | Count = "auto"
    batch_size: Auto | Positive = "auto"
    learning_rate: Auto | PositiveFloat = "auto"
    learning_rate_schedule: RateSchedule = "hyperrule"
    image_size: Auto | Pixels = "auto"
    resize: Auto | Pixels = "auto"
    padding: Padding = 0
    mixup: Auto | Share = "auto"
    flip: bool = True
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    batch_split: Auto | Positive = "auto"
    precision: Literal["float32", "mixed"] = "float32"
    devices: Literal["one", "all", "all_hosts"] = "one"
    threads: Auto | Threads = 2
    cache_mb: Count = 1000

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides what training comes to: all but the memory for images."""
        return self.model_dump(exclude={"cache_mb"})

    @model_validator(mode="after")
    def _crops_from_resized(self):
        if isinstance(self.resize, int) and (self.image_size == "auto" or self.resize < self.image_size):
            raise ValueError(f"resize {self.resize} needs an image_size of at most that, got {self.image_size}")
        return self


class Recovery(Section):
    """Training after pruning; with `distillation` the fine-tuned model teaches (Hinton et al., arXiv:1503.02531).

    With `distillation` 1 it alone does, as in arXiv:2106.05237 (Beyer et al.), which sets `mixup` to 1. By `hints` it
    teaches what residual units are to give, too, as in FitNets (Romero et al., arXiv:1412.6550).
    """

    steps: Auto | Count = "auto"
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 0.003
    learning_rate_schedule: RateSchedule = "cosine"
    padding: Auto | Padding = "auto"
    mixup: Auto | Share = "auto"
    distillation: Share = 0.0
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = 2.0
    hints: Annotated[float, Field(ge=0, le=1000)] = 0.0

    @property
    def cuts(self) -> tuple[Self, ...]:
        """What prunes before each round of the recovery: the entry itself, unless it has rounds."""
        return (self,)

    @property
    def parts(self) -> tuple[Self]:
        """The entry alone, as a combination of one."""
        return (self,)


class NoPruning(Section):
    method: Literal["none"]
    parts: ClassVar = ()


# Patterns of convolutions' paths, with the wildcards of shells.
Layers = Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None


class Magnitude(Recovery):
    method: Literal["magnitude"]
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.8
    scope: Literal["model", "kernel"] = "model"
    schedule: Literal["polynomial", "constant"] = "polynomial"
    layers: Layers = None


class NM(Recovery):
    method: Literal["n_m"]
    zeros: Positive = 2
    of: Positive = 4
    layers: Layers = None

    @model_validator(mode="after")
    def _leaves_weights(self):
        if self.zeros >= self.of:
            raise ValueError(f"zeros is {self.zeros}, which leaves nothing of {self.of} weights")
        return self


# Why hints can't be had.
NARROWER = "units that `scope: all` makes narrower can't follow those of the fine-tuned model; set hints to 0"


class Channels(Recovery):
    method: Literal["channels"]
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    target_macs: ProperShare | None = None
    target_parameters: ProperShare | None = None
    target_latency: ProperShare | None = None
    scope: Literal["inner", "all"] = "inner"
    importance: Literal["norm", "taylor"] = "taylor"
    rounds: Annotated[int, Field(ge=1, le=100)] = 1

    SIZES: ClassVar = ("keep", "target_macs", "target_parameters", "target_latency")

    @model_validator(mode="after")
    def _one_size(self):
        given = [key for key in self.SIZES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of {', '.join(self.SIZES)}, has {' and '.join(given) or 'none'}")
        return self

    @model_validator(mode="after")
    def _hints_fit(self):
        if self.scope == "all" and self.hints:
            raise ValueError(f"hints is {self.hints:g}: {NARROWER}")
        return self

    @model_validator(mode="after")
    def _steps_for_each_round(self):
        if self.steps != "auto" and 0 < self.steps < self.rounds:
            raise ValueError(f"steps is {self.steps}, too few for {self.rounds} rounds; at least {self.rounds}, or 0")
        return self

    @property
    def cuts(self) -> tuple[Self, ...]:
        """An entry for each round, with the share of the whole that it leaves; each takes as much of the whole."""
        key, share = self.size
        shares = (share + (1 - share) * (1 - number / self.rounds) for number in range(1, self.rounds + 1))
        return tuple(self.model_copy(update={key: each, "rounds": 1}) for each in shares)

    @property
    def size(self) -> tuple[str, float]:
        """The key that says how many channels stay, and its value."""
        return next((key, value) for key in self.SIZES if (value := getattr(self, key)) is not None)


class Units(Recovery):
    method: Literal["units"]
    remove: Positive = 1


class NormFree(Recovery):
    method: Literal["norm_free"]
    norms: Literal["all", "inner", "auto"] = "all"
    target_norms: ProperShare | None = None

    @model_validator(mode="after")
    def _target_for_auto(self):
        if (self.norms == "auto") != (self.target_norms is not None):
            raise ValueError("norms: auto needs target_norms, and nothing else has it")
        return self


class Quantize(Recovery):
    method: Literal["quantize"]
    weights: Literal[8, 4] = 8
    activations: Literal[8, "float"] = 8
    learning_rate: PositiveFloat = 0.0005
    distillation: Share = 1.0


# An entry of `pruning` that prunes, alone or in a combination.
Part = Magnitude | NM | Channels | Units | NormFree | Quantize


class Combine(Section):
    """Several methods one after the other, each with its own recovery."""

    method: Literal["combine"]
    parts: Annotated[
        tuple[Annotated[Part, Field(discriminator="method")], ...],
        Field(min_length=2, strict=False),
    ]

    @model_validator(mode="after")
    def _hints_fit(self):
        narrower = False
        for number, part in enumerate(self.parts):
            if narrower and part.hints:
                raise ValueError(f"parts[{number}].hints is {part.hints:g}: {NARROWER}")
            narrower |= isinstance(part, Channels) and part.scope == "all"
        return self

    @model_validator(mode="after")
    def _zeros_stay(self):
        *before, last = self.parts
        if any(isinstance(part, Quantize) for part in before):
            raise ValueError("only the last part can be quantize: what comes after would train weights off their grid")
        pruned = before[:-1] if isinstance(last, Quantize) else before
        if any(isinstance(part, Magnitude | NM) for part in pruned):
            raise ValueError(
                "only the last part can be magnitude or n_m, or the one before quantize: what else comes after would "
                "train zeros away"
            )
        return self


def keyed(entry: "Pruning") -> Iterator[tuple[str, Part]]:
    """The parts of an entry of `pruning`, each with its key below that of the entry: "" where it is its only part."""
    for number, part in enumerate(entry.parts):
        yield f"parts[{number}]" if isinstance(entry, Combine) else "", part


class Output(Section):
    """What every file can be asked for: logits, or with `softmax` probabilities."""

    softmax: bool = False


class Uncalibrated(Output):
    """A scheme that needs no training images: activations are float32, or quantized as they come."""

    scheme: Literal["float32", "float16", "dynamic"]
    winograd: bool = False


class Calibrated(Output):
    """A scheme that learns from training images how to round weights, or the ranges of activations."""

    calibration_images: Positive = 256
    calibration_seed: Seed = 0
    calibration_balanced: bool = True
    rounding: Literal["nearest", "compensated"] = "nearest"


class Int4(Calibrated):
    """Weights of int4 where that is no slower, activations quantized as they come."""

    scheme: Literal["int4"]
    rounding: Literal["nearest", "compensated"] = "compensated"


class Static(Calibrated):
    """A scheme with fixed ranges of activations."""

    ranges: Literal["min_max", "mse"] = "min_max"


class Integers(Static):
    """Integers throughout: int8 weights, activations of int8 or int16."""

    scheme: Literal["int8", "int16x8"]


class Int8Mixed(Static):
    """int8 in convolutions but those that `keep_float` names, float32 elsewhere."""

    scheme: Literal["int8_mixed"]
    keep_float: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _names_layers(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("keep_float") == "auto":
            raise ValueError("keep_float takes patterns, not auto: `scheme: mixed` chooses by max_accuracy_drop")
        return data


class Mixed(Static):
    """Each convolution of the type that its harm to accuracy allows, float32 elsewhere."""

    scheme: Literal["mixed"]
    max_accuracy_drop: Share = 0.01
    objective: Literal["size", "latency"] = "size"


class Npu(Section):
    """An Ethos-U as Vela's Arm/vela.ini names it, its system and its memory."""

    accelerator: Literal[
        "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
        "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
    ] = "ethos-u55-256"  # fmt: skip
    system_config: Literal[
        "Ethos_U55_Deep_Embedded", "Ethos_U55_High_End_Embedded",
        "Ethos_U65_Embedded", "Ethos_U65_Mid_End", "Ethos_U65_High_End", "Ethos_U65_Client_Server",
        "Ethos_U85_SYS_Flash_Low", "Ethos_U85_SYS_Flash_High",
        "Ethos_U85_SYS_DRAM_Low", "Ethos_U85_SYS_DRAM_Mid", "Ethos_U85_SYS_DRAM_High",
    ] = "Ethos_U55_High_End_Embedded"  # fmt: skip
    memory_mode: Literal[
        "Sram_Only", "Shared_Sram", "Dedicated_Sram", "Dedicated_Sram_256KB", "Dedicated_Sram_384KB",
        "Dedicated_Sram_512KB",
    ] = "Shared_Sram"  # fmt: skip

    @model_validator(mode="after")
    def _one_family(self):
        # Vela itself takes any system, and reckons with it.
        family = self.accelerator.rpartition("-")[0]
        if not self.system_config.lower().replace("_", "-").startswith(family):
            raise ValueError(f"system_config {self.system_config} is no system of an {family}")
        return self

    @model_validator(mode="after")
    def _has_memory(self):
        # Dedicated_Sram keeps activations in the other memory, which is read-only if it is flash.
        flash = "Flash" in self.system_config or self.system_config.endswith("_Embedded")
        if flash and self.memory_mode.startswith("Dedicated"):
            raise ValueError(f"memory_mode {self.memory_mode} needs a system with DRAM, {self.system_config} has none")
        return self


class Where(Section):
    images: Count = 20
    npu: Npu = Npu()


class Benchmark(Section):
    threads: Threads = 1
    warmup_runs: Annotated[int, Field(ge=0, le=10**6)] = 20
    runs: Annotated[int, Field(ge=1, le=10**6)] = 400


class Compare(Section):
    baseline: str = "dense-float32"
    max_accuracy_drop: Share = 0.02
    min_accuracy: Share | None = None
    max_size_bytes: Positive | None = None
    max_latency_ms: PositiveFloat | None = None
    max_memory_mb: PositiveFloat | None = None
    objective: Literal["size", "latency", "accuracy"] = "size"


Pruning = Annotated[NoPruning | Part | Combine, Field(discriminator="method")]
Quantization = Annotated[Uncalibrated | Int4 | Integers | Int8Mixed | Mixed, Field(discriminator="scheme")]


class Params(Section):
    """The whole of params.yaml."""

    seed: Seed = 0
    dataset: Dataset
    backbone: Backbone
    finetune: Finetune = Finetune()
    pruning: Annotated[dict[Name, Pruning], Field(min_length=1)] = {"dense": NoPruning(method="none")}
    quantization: Annotated[dict[Name, Quantization], Field(min_length=1)] = {"float32": Uncalibrated(scheme="float32")}
    where: Where = Where()
    benchmark: Benchmark = Benchmark()
    compare: Compare = Compare()

    @property
    def variants(self) -> list[str]:
        """Names of all pairs of a pruning and a quantization, in the order of the file."""
        return [f"{p}-{q}" for p in self.pruning for q in self.quantization]

    @overload
    def entry(self, section: Literal["pruning"], name: str) -> Pruning: ...

    @overload
    def entry(self, section: Literal["quantization"], name: str) -> Quantization: ...

    def entry(self, section, name):
        """The entry of a section that bears this name. Raises InputError if there is none."""
        entries = getattr(self, section)
        if name not in entries:
            raise InputError(f"params.yaml has no entry {name!r} under {section}; it has: {', '.join(entries)}")
        return entries[name]

    def variant(self, name: str) -> str:
        """This name of a variant. Raises InputError if params.yaml does not ask for it."""
        if name not in self.variants:
            raise InputError(f"params.yaml asks for no variant {name!r}; it asks for: {', '.join(self.variants)}")
        return name

    @model_validator(mode="after")
    def _baseline_exists(self):
        if self.compare.baseline not in self.variants:
            raise ValueError(f"compare.baseline is {self.compare.baseline!r}; allowed: {', '.join(self.variants)}")
        return self


# Names and paths, which are taken as they are written: 2024 is a folder, not a number.
AS_WRITTEN = {"dataset": ("name", "data_dir"), "backbone": ("name", "source")}


def load(path: Path = Path("params.yaml")) -> Params:
    """The checked content of `path`. Raises InputError that names the key, its value and what is allowed."""
    if not path.exists():
        raise InputError(f"{path} is not here: run this in the project's own folder")
    if not path.is_file():
        raise InputError(f"{path} cannot be read: it is no file")
    try:
        content = _parsed(path, "safe")
    except (OSError, UnicodeError, YAMLError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read: a value is not of its tag, or nested too deep") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no keys, such as dataset and backbone")
    try:
        return Params.model_validate(_with_texts(content, path))
    except ValidationError as error:
        raise InputError(f"{path}: {one_line(_first_problem(error, content))}") from error


def _parsed(path: Path, kind: Literal["safe", "base"]) -> Any:
    # As DVC reads it: UTF-8, and YAML 1.2; in 1.1, which PyYAML reads, 1e-3 is a string and `on` a boolean.
    with path.open(encoding="utf-8") as file:
        return YAML(typ=kind, pure=True).load(file)


def _with_texts(content: Any, path: Path) -> Any:
    """`content` with the values of AS_WRITTEN as they stand in the file at `path`."""
    for section, keys in AS_WRITTEN.items():
        values = content.get(section) if isinstance(content, dict) else None
        for key in keys:
            if isinstance(values, dict) and isinstance(values.get(key), bool | int | float | date):
                values[key] = _parsed(path, "base")[section][key]
    return content


def _first_problem(error: ValidationError, content: Any) -> str:
    details = error.errors(include_url=False)
    # A list is also too short by its items that are wrong.
    details = [detail for detail in details if detail["type"] != "too_short"] or details
    keys = [_key(detail, content) for detail in details]
    # A value that fits none of a union's types has one entry for each of them.
    reasons = [_reason(detail) for detail, key in zip(details, keys, strict=True) if key == keys[0]]
    value = details[0]["input"]
    received = "" if isinstance(value, dict) else f" is {BRIEF.repr(value)}"
    others = len(set(keys)) - 1
    where = f"{keys[0]}{received}: " if keys[0] or received else ""
    return f"{where}{', or '.join(reasons)}" + (f" (and {others} more wrong keys)" if others else "")


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "union_tag_not_found":
        return f"needs the key {detail['ctx']['discriminator']}"
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        return f"{context['discriminator'].strip(chr(39))} is {context['tag']!r}; allowed: {context['expected_tags']}"
    if detail["type"] == "tuple_type":
        return "must be a list"
    if detail["type"] == "too_short":
        least = detail["ctx"]["min_length"]
        return f"needs at least {least} item{'s' if least > 1 else ''}"
    return detail["msg"].removeprefix("Value error, ")


def _key(detail: ErrorDetails, content: Any) -> str:
    """Dotted path of the faulty key: pydantic's own location also holds the types of a union that it tried."""
    path, node = [], content
    for part in detail["loc"]:
        below = dict(enumerate(node)) if isinstance(node, list) else node
        if isinstance(below, dict) and part in below:
            path.append(f"[{part}]" if isinstance(node, list) else f".{part}")
            node = below[part]
    if detail["type"] == "missing":
        path.append(f".{detail['loc'][-1]}")
    return "".join(path).removeprefix(".")
