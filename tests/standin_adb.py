"""Behaves as Android's adb does, with a folder for the phone: devices, push, shell with exit codes, getprop, cpuinfo.

    python standin_adb.py PHONE ARGUMENTS...

PHONE: a folder with phone.json: `devices`, what `adb devices` prints after its header; `properties`; `cpuinfo`;
`exit_codes`, which adb before Android 7 did not pass on; `unplugged_after`, times that benchmark_model runs;
`benchmark`, what benchmark_model does for each graph; `log`, the calls of adb and of benchmark_model.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

TMP = "/data/local/tmp"


def main(phone, *arguments):
    state = json.loads((phone / "phone.json").read_text())
    with (phone / "log").open("a") as log:
        print(json.dumps(arguments), file=log)
    if arguments == ("devices",):
        print("* daemon not running; starting now at tcp:5037\n* daemon started successfully")
        print("List of devices attached\n" + "".join(f"{line}\n" for line in state["devices"]))
        return 0
    option, serial, verb, *rest = arguments
    assert option == "-s"
    connected = serial in [line.split("\t")[0] for line in state["devices"] if line.endswith("\tdevice")]
    if not connected or runs(phone) > state["unplugged_after"]:
        print(f"adb: device '{serial}' not found", file=sys.stderr)
        return 1
    if verb == "push":
        *sources, there = rest
        for source in sources:
            target = inside(phone, there) / Path(source).name if there.endswith("/") else inside(phone, there)
            if not target.parent.is_dir():
                print(f"adb: error: failed to copy '{source}' to '{there}': remote No such file or directory")
                return 1
            target.write_bytes(Path(source).read_bytes())
            target.chmod(0o644)
            print(f"{source}: 1 file pushed, 0 skipped. 27.9 MB/s ({target.stat().st_size} bytes in 0.052s)")
        return 0
    assert verb == "shell"
    code = shell(phone, state, " ".join(rest))
    return code if state["exit_codes"] else 0


def inside(phone, path):
    return phone / path.removeprefix(f"{TMP}/")


def shell(phone, state, command):
    words = shlex.split(command)
    if words == ["getprop"]:
        print("".join(f"[{key}]: [{value}]\n" for key, value in state["properties"].items()))
        return 0
    if words == ["cat", "/proc/cpuinfo"]:
        print(state["cpuinfo"])
        return 0
    if words[0].endswith("/benchmark_model"):
        program = inside(phone, words[0])
        if not program.stat().st_mode & 0o100:
            print(f"/system/bin/sh: {words[0]}: can't execute: Permission denied", file=sys.stderr)
            return 126
        return benchmark_model(phone, state, dict(word.removeprefix("--").split("=", 1) for word in words[1:]))
    return subprocess.call(["sh", "-c", command.replace(TMP, shlex.quote(str(phone)))])


def runs(phone):
    return len((phone / "runs").read_text().splitlines()) if (phone / "runs").exists() else 0


def benchmark_model(phone, state, flags):
    """Prints what the tools print, each in its own words; times are `us` of the graph and 1 more a run of any graph.

    The older, TensorFlow Lite's: tflite/tools/benchmark/benchmark_model.cc and benchmark_tflite_model.cc. `compiled`,
    for CompiledModel: litert/tools/benchmark_litert_model.h. Both in google-ai-edge/LiteRT as of August 2026, with
    statistics by xla/tsl/util/stats_calculator.h. `old`: the older one before there were percentiles.
    """
    graph = inside(phone, flags["graph"])
    with (phone / "runs").open("a") as log:
        print(json.dumps({**flags, "graph": graph.stem}), file=log)
    does = {"kind": "tflite", "us": 1000, **state["benchmark"].get(graph.stem, {})}
    print("INFO: STARTING!\nINFO: Log parameter values verbosely: [0]")
    print(f"INFO: Num threads: [{flags['num_threads']}]\nINFO: Graph: [{flags['graph']}]")
    if does["kind"] == "hangs":
        time.sleep(60)
    if not graph.exists() or does["kind"] == "fails":
        print("ERROR: Failed to load model \33[31m" + flags["graph"], file=sys.stderr)
        print("ERROR: Benchmarking failed.", file=sys.stderr)
        return 1
    print(f"INFO: Loaded model {flags['graph']}\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.")
    print("INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.")
    print(f"INFO: The input model file size (MB): {graph.stat().st_size / 1e6:g}")
    print("INFO: Initialized session in 4.125ms.")
    us = does["us"] + runs(phone)
    same = does["kind"] == "compiled"
    for first, seconds, count in ((7 * us, 0.5, flags["warmup_runs"]), (us + 3, flags["min_secs"], flags["num_runs"])):
        print(
            f"INFO: Running benchmark for at least {count} iterations and at least {seconds} seconds but terminate if "
        )
        percentiles = "" if does["kind"] == "old" else f" p5={us - 5} median={us} p95={2 * us}"
        if same and first == 7 * us:
            print(f"INFO: count=1 curr={first} p5={first} median={first} p95={first}\n")
            continue
        print(
            f"INFO: count={count} first={first} curr={us} min={us - 9} max={9 * us} avg={us}.75 std=12{percentiles}\n"
        )
    if does["kind"] == "compiled":
        print("INFO: \n========== BENCHMARK RESULTS ==========\nINFO: Model initialization: 4.12 ms", file=sys.stderr)
        print(f"INFO: Inference (avg):      {us / 1000:.2f} ms (80 runs)\nINFO: \nMemory Usage:", file=sys.stderr)
        print("INFO: Init footprint:       2.00 MB\nINFO: Overall footprint:    10.00 MB", file=sys.stderr)
        print("INFO: ======================================\n", file=sys.stderr)
    else:
        print(
            f"INFO: Inference timings in us: Init: 4125, First inference: {7 * us}, Warmup (avg): 9, Inference (avg): 9"
        )
        print(
            "INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to "
        )
        print("INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=10")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
