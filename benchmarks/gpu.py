"""The first hour on a GPU as one command: parts in the order of their worth, each under a time limit of its own.

correctness  tests/test_gpu.py, then a fixed sample of the suite on the CUDA and on the Triton kernels
training     steps of both backends, eagerly and in CUDA graphs, against eager and compiled PyTorch
forecast     what benchmarks.forecast says of the same steps, beside it
mining       every strategy at large batches
sanitizer    memcheck, racecheck and initcheck of compute-sanitizer on a small sample, where the tool is there
host         without a GPU: host time of a Triton step with a driver that does nothing
sass         local memory and tensor cores in the built CUDA kernels, where cuobjdump is there

A part is a few commands, each in a process of its own that gets an even share of what is left of the part's minutes;
one that fails or runs out of time is recorded and the next one starts. The report and the CSVs are written anew after
every command, and a later run with other --parts adds to them. Without a GPU what needs one is left out, which is no
failure; with one the exit code is 1 where a command failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from indeed_ext import _extension

from . import ROOT
from .card import H100
from .cases import GPU_DTYPES, GPU_SHAPES, Shape, dtype_name
from .environment import describe
from .results import number, table

TESTS = ROOT / "tests"
#: What the sample of the suite is taken of.
SAMPLED = (
    "fused_indeed_loss", "cuda_values", "mine_pairs", "pack_labels", "loss_autograd", "identical_disparate",
    "six_way_bce", "numeric_range", "zero_features", "narrow_rows", "tile_edges", "seeds", "autocast", "modules",
    "bad_input", "compile",
)  # fmt: skip
#: Tool of compute-sanitizer to the tests it watches.
SANITIZED = {
    "memcheck": ("test_fused_indeed_loss.py", "test_mine_pairs.py", "test_six_way_bce.py"),
    "racecheck": ("test_mine_pairs.py", "test_fused_indeed_loss.py"),
    "initcheck": ("test_six_way_bce.py", "test_identical_disparate.py"),
}
#: torch's caching allocator would hide the ends of tensors.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
OK, TIMED_OUT, MISSING = "ok", "out of time", "left out"


@dataclass(frozen=True)
class Command:
    """Something to run, in a folder, with variables on top of the environment."""

    name: str
    arguments: tuple[str, ...]
    folder: Path = ROOT
    variables: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""  # why it cannot be run, if so


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    part: str
    name: str
    command: str
    result: str
    seconds: float
    summary: str
    log: str


@dataclass(frozen=True)
class Part:
    """Some commands, given where results go and what was asked for."""

    commands: Callable[[argparse.Namespace], list[Command]]
    on_gpu: bool = True


# ----------------------------------------------------------------------------- parts


def _pytest(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", *arguments)


def _correctness(options: argparse.Namespace) -> list[Command]:
    files = [f"test_{name}.py" for name in SAMPLED]
    suites = [
        Command(f"suite, {backend}", _pytest("--backend", backend, "--sample", *files), TESTS)
        for backend in ("cuda", "triton")
    ]
    return [Command("test_gpu.py", _pytest("test_gpu.py"), TESTS), *suites]


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.{name}", *arguments)


def _training(options: argparse.Namespace) -> list[Command]:
    chosen = ("--shapes", *map(str, options.shapes), "--types", *options.types)
    return [Command("training", _module("gpu_training", str(options.folder / "training.csv"), *chosen))]


def _mining(options: argparse.Namespace) -> list[Command]:
    return [Command("mining", _module("gpu_mining", str(options.folder / "mining.csv")))]


def _sanitizer(options: argparse.Namespace) -> list[Command]:
    tool = shutil.which("compute-sanitizer")
    missing = "" if tool else "compute-sanitizer is not on the path"
    return [
        Command(
            name,
            (tool or "", "--tool", name, "--error-exitcode", "1", *_pytest("--backend", "cuda", "--sample", *files)),
            TESTS,
            {} if name == "racecheck" else UNCACHED,
            missing,
        )
        for name, files in SANITIZED.items()
    ]


def _forecast(options: argparse.Namespace) -> list[Command]:
    chosen = ("--shapes", *map(str, options.shapes), "--types", *options.types)
    output = ("--csv", str(options.folder / "forecast.csv"))
    return [Command("forecast", _module("forecast", *chosen, *output))]


def _host(options: argparse.Namespace) -> list[Command]:
    missing = "host time is measured on the GPU" if torch.cuda.is_available() else ""
    return [Command("host", _module("host_time"), missing=missing)]


def _sass(options: argparse.Namespace) -> list[Command]:
    return [Command("sass", _module("sass"))]


PARTS = {
    "correctness": Part(_correctness),
    "training": Part(_training),
    "forecast": Part(_forecast, on_gpu=False),
    "mining": Part(_mining),
    "sanitizer": Part(_sanitizer),
    "host": Part(_host, on_gpu=False),
    "sass": Part(_sass, on_gpu=False),
}


# --------------------------------------------------------------------------- running


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; 1 where a command failed on a GPU."""
    options = _parser().parse_args(arguments)
    options.folder = options.output.parent
    (options.folder / "logs").mkdir(parents=True, exist_ok=True)
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        print("torch finds no usable GPU here: nothing of one is measured, only what can be had without", flush=True)
    outcomes: list[Outcome] = []
    for name in options.parts:
        part = PARTS[name]
        if part.on_gpu and not has_gpu:
            outcomes.append(Outcome(name, name, "", MISSING, 0.0, "torch finds no usable GPU", ""))
            continue
        for outcome in run_part(name, part.commands(options), options.folder, options.minutes * 60):
            outcomes.append(outcome)
            print(f"{name}: {outcome.name}: {outcome.result}, {outcome.seconds:.0f} s. {outcome.summary}", flush=True)
            write(options, outcomes)
    write(options, outcomes)
    print(f"written to {options.output}")
    return 1 if has_gpu and any(outcome.result not in (OK, MISSING) for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    types = [dtype_name(dtype) for dtype in GPU_DTYPES]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of each part (default %(default)s)")
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=list(GPU_SHAPES), metavar="BxNxC")
    parser.add_argument("--types", nargs="+", choices=types, default=types, metavar="TYPE")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu/report.md"), metavar="FILE")
    return parser


def run_part(part: str, commands: Sequence[Command], folder: Path, seconds: float) -> Iterator[Outcome]:
    """Run commands one after the other, within so many seconds for all of them."""
    deadline = time.monotonic() + seconds
    for index, command in enumerate(commands):
        if command.missing:
            yield Outcome(part, command.name, "", MISSING, 0.0, command.missing, "")
        else:
            share = max(1.0, (deadline - time.monotonic()) / (len(commands) - index))
            log = folder / "logs" / (re.sub(r"\W+", "_", f"{part} {command.name}") + ".log")
            yield _run(part, command, log, share)


def _run(part: str, command: Command, log: Path, seconds: float) -> Outcome:
    start = time.monotonic()
    environment = {**os.environ, **command.variables, "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as file:
        # A group of its own, so that what it starts ends with it.
        process = subprocess.Popen(
            command.arguments, cwd=command.folder, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
            result = OK if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            result = TIMED_OUT
        finally:
            _end(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    shown = shlex.join([*(f"{k}={v}" for k, v in command.variables.items()), *command.arguments])
    return Outcome(part, command.name, shown, result, time.monotonic() - start, summary(text), log.name)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, sent)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


def summary(text: str) -> str:
    """One line on a log: counts of tests, of those that ran where it was cut off, else the last line."""
    counts = {word: len(re.findall(rf" {word}\b.*\[ *\d+%\]$", text, re.MULTILINE)) for word in _STATES}
    if any(counts.values()):
        return ", ".join(f"{count} {word.lower()}" for word, count in counts.items() if count)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("|")]
    return lines[-1][:200] if lines else ""


_STATES = ("PASSED", "FAILED", "ERROR", "SKIPPED")


# --------------------------------------------------------------------------- report


def write(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    """The report of these outcomes, and of parts that ran before."""
    record = options.folder / "outcomes.json"
    earlier = _earlier(record)
    # What ran before is not forgotten where it is left out now.
    known = {each.part for each in earlier} - {each.part for each in outcomes if each.result != MISSING}
    found = [each for each in earlier if each.part in known] + [each for each in outcomes if each.part not in known]
    found.sort(key=lambda outcome: list(PARTS).index(outcome.part))
    record.write_text(json.dumps([asdict(outcome) for outcome in found], indent=1), encoding="utf-8")
    options.output.write_text(render(options.folder, found), encoding="utf-8")


def _earlier(record: Path) -> list[Outcome]:
    return [Outcome(**each) for each in json.loads(record.read_text(encoding="utf-8"))] if record.exists() else []


def render(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """The report as Markdown, from the outcomes and the CSVs that are there."""
    environment = describe("cuda" if torch.cuda.is_available() else "cpu")
    info = _extension.BUILD_INFO
    environment["cuda kernels"] = f"CUDA {info['cuda']}" if info.get("cuda") else str(info.get("cuda_missing"))
    training, forecast = _read(folder / "training.csv"), _read(folder / "forecast.csv")
    lines = [[o.part, o.name, o.result, f"{o.seconds:.0f}", o.summary.replace("|", "/")] for o in outcomes]
    parts = [
        "# On a GPU\n",
        table(list(environment), [list(environment.values())]) + "\n",
        "" if torch.cuda.is_available() else "There is no GPU here: nothing below was measured on one.\n",
        "## Parts\n",
        table(["part", "command", "result", "seconds", "summary"], lines) + "\n",
        *_training_tables(training, forecast),
        *_mining_table(_read(folder / "mining.csv")),
        *_forecast_table(training, forecast),
        *(_log(folder, o) for o in outcomes if o.part in ("host", "sass") and o.result == OK),
        *(_failure(folder, o) for o in outcomes if o.result not in (OK, MISSING)),
    ]
    return "\n".join(part for part in parts if part)


Record = dict[str, str]


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _step(row: Record) -> tuple[str, str]:
    return f"{row['batch']}x{row['width']}x{row['classes']}", row["dtype"]


def _metrics(rows: Sequence[Record]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Step to implementation to metric to its median."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["section"] == "gpu_training" and row["metric"] not in ("kernel", "failed"):
            metrics = found.setdefault(_step(row), {}).setdefault(row["implementation"], {})
            metrics[row["metric"]] = float(row["median"])
    return found


def least_work(shape: str, dtype: str) -> tuple[float, float]:
    """(bytes, FLOP) that any implementation of a step needs: inputs read, gradients written, three products.

    Logits are not counted, nor features that are read again as partners.
    """
    batch, width, classes = map(int, shape.split("x"))
    element = torch.empty((), dtype=getattr(torch, dtype)).itemsize
    leaves = (batch * width + classes * width + classes) * element
    return 2.0 * leaves + 4 * batch * classes, 3 * 2.0 * 2 * batch * width * classes


def _training_tables(rows: Sequence[Record], forecast: Sequence[Record]) -> list[str]:
    if not rows:
        return []
    reached = {row["implementation"]: float(row["median"]) for row in rows if row["section"] == "gpu_peaks"}
    peaks = [f"{value:.3g} T{'B/s' if name == 'memory' else 'FLOP/s'} {name}" for name, value in reached.items()]
    lines = []
    for (shape, dtype), implementations in _metrics(rows).items():
        eager = implementations.get("eager", {}).get("step", float("nan"))
        moved, flops = least_work(shape, dtype)
        for name, metrics in implementations.items():
            seconds = metrics.get("step", float("nan")) * 1e-3
            rates = [moved / seconds / 1e12, flops / seconds / 1e12]
            shares = [rates[0] / reached.get("memory", float("nan")), rates[1] / reached.get(dtype, float("nan"))]
            cells = [number(metrics.get(key, float("nan"))) for key in ("host", "device", "launches", "memory")]
            reach = [f"{number(rate)} ({number(100 * share)}%)" for rate, share in zip(rates, shares, strict=True)]
            lines.append([shape, dtype, name, number(seconds * 1e6), number(eager * 1e-3 / seconds), *cells, *reach])
    header = ["batch x width x classes", "type", "implementation", "step [µs]", "faster than eager", "host [µs]"]
    header += ["device [µs]", "launches", "peak [MiB]", "TB/s (of peak)", "TFLOP/s (of peak)"]
    return [
        "## Training steps\n",
        "*step*: one after the other without waiting, the slower of device and host; *host*: until a call returns; "
        "*device*: the sum of its kernels. Rates are of the least work, inputs read and gradients written once and "
        f"three products, by *step*. This card reached {', '.join(peaks) or 'no peak that was measured'}. Kernels are "
        "in training.csv.\n",
        table(header, lines) + "\n",
        *(
            f"Failed: {row['implementation']} at {'-'.join(_step(row))}: {row['note']}\n"
            for row in rows
            if row["metric"] == "failed"
        ),
    ]


def _mining_table(rows: Sequence[Record]) -> list[str]:
    if not rows:
        return []
    lines = [
        [row["batch"], row["pairing"], row["implementation"], number(float(row["median"]) * 1e3),
         number(float(row["speedup_over_eager_median"])) if row["speedup_over_eager_median"] else "—"]
        for row in rows
    ]  # fmt: skip
    header = ["batch", "strategy", "implementation", "time [µs]", "faster than eager"]
    return ["## Mining, 80 classes\n", table(header, lines) + "\n"]


def _forecast_table(training: Sequence[Record], forecast: Sequence[Record]) -> list[str]:
    if not forecast:
        return []
    measured, lines = _metrics(training), []
    for row in forecast:
        implementations, name = measured.get(_step(row), {}), row["implementation"]
        called, replayed = implementations.get(name, {}), implementations.get(f"{name} graph", {})
        seen = replayed.get("step", float("nan")) * 1e3
        if name == "compile":
            called = implementations.get("compile reduce-overhead", {})
            seen = called.get("device", float("nan"))
        device, host = float(row["device_us"]), float(row["host_us"])
        lines.append(
            [*_step(row), name, number(device), number(seen), number(seen / device),
             number(host), number(called.get("host", float("nan"))), row["launches"],
             number(called.get("launches", float("nan")))]
        )  # fmt: skip
    header = ["batch x width x classes", "type", "implementation", "device, forecast [µs]", "measured", "ratio"]
    header += ["host, forecast [µs]", "measured", "launches, forecast", "measured"]
    return [
        f"## Forecast for one {H100.name}, and what was measured\n",
        "Device: a step replayed from a CUDA graph, measured of `compile` as the sum of its kernels, without the gaps "
        "between them. Host: an eager call, of `compile` one that replays its graphs.\n",
        table(header, lines) + "\n",
    ]


def _log(folder: Path, outcome: Outcome) -> str:
    text = (folder / "logs" / outcome.log).read_text(encoding="utf-8", errors="replace")
    return f"## {_TITLES[outcome.part]}\n\n{text.strip()}\n"


_TITLES = {"host": "Host time of a Triton step without a device", "sass": "Machine code of the CUDA kernels"}


def _failure(folder: Path, outcome: Outcome) -> str:
    text = (folder / "logs" / outcome.log).read_text(encoding="utf-8", errors="replace")
    failed = re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE)[:30]
    shown = "\n".join([*failed, *text.splitlines()[-15:]])
    return (
        f"## {outcome.part}, {outcome.name}: {outcome.result}\n\n    {outcome.command}\n\n```\n{shown[-6000:]}\n```\n"
    )


if __name__ == "__main__":
    sys.exit(main())
