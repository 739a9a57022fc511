"""What a .tflite file says that it needs: versions of its operators, and the oldest runtime. No TensorFlow.

A runtime refuses a file with an operator of a later version than it knows. Where the version is too low it computes
what it can: by int4 kernels of convolutions TensorFlow Lite 2.12 to 2.18 and LiteRT 1.0 answer NaN or nonsense, or
crash; by those of dense layers LiteRT 1.0 is off by 0.23 of the largest logit, TensorFlow Lite 2.14 to 2.18 are right.
The quantizers leave versions too low, as TensorFlow's converter does for int16x8.

The rules are TensorFlow's, as far as our files need them (op_version.cc and runtime_version.cc in
tensorflow/compiler/mlir/lite/tools/versioning of TensorFlow 2.21). By these a dense layer of each pixel has version 5,
also by int4, which runtimes know that are wrong, and no other would do: above 9 LiteRT's GPU delegate leaves it to the
CPU. LITMUS keeps wrong runtimes away.
`python -m benchmarks.runtimes` tries the files on old runtimes.
"""

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

INT4 = "float32 by int4"
# For each operator and the types that decide, its version and the TensorFlow that brought it.
VERSIONS = {
    "ADD": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int16": (3, "2.4.0")},
    "CONCATENATION": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int16": (3, "2.3.0")},
    "CONV_2D": {
        "float32 by float32": (1, "1.5.0"),
        "float32 by int8": (5, "2.4.0"),
        "int8 by int8": (3, "1.14.0"),
        "int16 by int8": (8, "2.15.0"),
    },
    "DEPTHWISE_CONV_2D": {"float32": (1, "1.5.0"), "int8": (3, "1.14.0"), "int16": (5, "2.3.0")},
    "DEQUANTIZE": {"uint8": (1, "1.13.1"), "int8": (2, "1.14.0"), "int16": (3, "1.15.0"), "float16": (3, "1.15.0")},
    # As a layer of each pixel, which keeps the image's dimensions.
    "FULLY_CONNECTED": {"float32 by float32": (5, "2.0.0"), INT4: (5, "2.0.0")},
    "MAX_POOL_2D": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int16": (3, "2.3.0")},
    "MEAN": {"float32": (1, "1.6.0"), "int8": (2, "1.14.0"), "int16": (3, "2.4.0")},
    "MUL": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int8, enlarged": (3, "1.15.0"), "int16": (4, "2.3.0")},
    "PAD": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int16": (3, "2.4.0")},
    "QUANTIZE": {"uint8": (1, "1.14.0"), "int8": (1, "1.14.0"), "int16": (2, "1.15.0")},
    "RELU": {"float32": (1, "1.5.0")},
    "RESHAPE": {"float32": (1, "1.5.0"), "int8": (1, "1.5.0"), "int16": (1, "1.5.0")},
    "RSQRT": {"float32": (1, "1.10.0"), "int8": (2, "2.5.0"), "int16": (3, "2.15.0")},
    "SLICE": {"float32": (1, "1.14.0"), "int8": (2, "1.14.0"), "int16": (4, "2.4.0")},
    "SOFTMAX": {"float32": (1, "1.5.0"), "int8": (2, "1.14.0"), "int16": (3, "2.3.0")},
    "SUB": {"float32": (1, "1.6.0"), "int8": (2, "1.14.0"), "int16": (5, "2.4.0")},
}
# An operator that no graph here has, in the version that came with right convolutions by int4 kernels: a file of int4
# lists it, and a runtime that knows it not refuses the list, used or not.
LITMUS = {"DYNAMIC_UPDATE_SLICE": (3, "2.19.0")}


def declare(model: schema.ModelT) -> str:
    """Have a model of one graph say what its operators need. Gives the oldest runtime, as its metadata are to name it.

    Each operator stands in the list once, in the latest version that one in the graph needs, as TensorFlow's converter
    has it. Raises ValueError for an operator, or types of one, without a rule here.
    """
    (graph,) = model.subgraphs
    needs: dict[str, tuple[int, str]] = {}
    for operator in graph.operators:
        name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        types = _types(name, graph, operator)
        if types not in VERSIONS.get(name, ()):
            raise ValueError(f"bitlite/tflite/versions.py has no version of {name} of {types}; op_version.cc may have")
        needs[name] = max(needs.get(name, (0, "")), VERSIONS[name][types])
        operator.opcodeIndex = list(needs).index(name)
        if types == INT4:
            needs |= LITMUS
    model.operatorCodes = []
    for name, (version, _) in needs.items():
        number = getattr(schema.BuiltinOperator, name)
        # Runtimes before TensorFlow 2.4 read the deprecated field, which holds no more than 127.
        model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version)
        )
    return max((release for _, release in needs.values()), key=_numbers)


def _types(name: str, graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """The types that decide the version, as VERSIONS calls them; with the dimensions too where they are more than 4."""
    inputs, output = [graph.tensors[number] for number in operator.inputs], graph.tensors[operator.outputs[0]]

    def kind(tensor: schema.TensorT) -> str:
        return flatbuffer_utils.type_to_name(tensor.type).lower()

    types = kind(output if name == "QUANTIZE" else inputs[0])
    if name in ("CONV_2D", "FULLY_CONNECTED"):
        types = f"{types} by {kind(inputs[1])}"
    elif name == "MUL" and types == "int8":
        first, second, product = (each.quantization.scale[0] for each in (*inputs, output))
        types += ", enlarged" if first * second / product >= 1 else ""
    dimensions = max(0 if each.shape is None else len(each.shape) for each in inputs)
    return types if dimensions <= 4 else f"{types}, {dimensions} dimensions"


def _numbers(release: str) -> list[int]:
    return [int(number) for number in release.split(".")]
