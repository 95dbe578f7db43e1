"""Training steps on a GPU, written to a CSV after every shape: ``python -m benchmarks.gpu_training results.csv``.

Of every implementation, in rows of their own:

step      milliseconds of a step, called one after the other without waiting: the slower of device and host
host      microseconds until a call returns, the device idle before it
device    microseconds of all kernels of a call, by torch.profiler
launches  kernels of a call, copies and fills included, by torch.profiler
memory    MiB at the peak, beyond what was allocated before the call

Implementations are eager and compiled PyTorch (:func:`.inductor_kernels.plain_step`, which mines as part of it) and
every backend of indeed_ext; what is not compiled is also replayed from a CUDA graph. One that does not run has a row
``failed`` with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .agreement import Disagreement, require_equal_losses
from .baselines import EAGER, TRAINING, Call, Key, compiled_backends, fused, losses, run_step
from .cases import GPU_DTYPES, GPU_SHAPES, Case, Inputs, Shape, Step, dtype_name, gpu_steps, make_inputs
from .environment import describe
from .inductor_kernels import plain_step
from .results import Row, write_csv
from .timing import Effort, Spread, measure, synchronise

SECTION, PEAKS = "gpu_training", "gpu_peaks"
COMPILE, REDUCE_OVERHEAD, AUTO_CHUNKER = "compile", "compile reduce-overhead", "compile auto-chunker"
GRAPH = " graph"
EFFORT = Effort(rounds=15, seconds=3.0, min_rounds=5)
HOST_ROUNDS = 30
PROFILED_CALLS = 3
#: Rows and columns of the products, and bytes of the copy, that the peaks of the card are taken from.
PEAK_SIZE, PEAK_BYTES = 8192, 1 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where an implementation failed or disagreed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_training", description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, metavar="CSV")
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=list(GPU_SHAPES), metavar="BxNxC")
    types = {dtype_name(dtype): dtype for dtype in GPU_DTYPES}
    parser.add_argument("--types", nargs="+", choices=types, default=list(types), metavar="TYPE")
    parser.add_argument("--without-compile", action="store_true")
    parser.add_argument("--device", default="cuda", help="cpu: what there is to measure without a GPU")
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    steps = gpu_steps(options.shapes, [types[name] for name in options.types], options.device)
    recorder = Recorder(options.output, options.device)
    if options.device == "cuda":
        recorder.add(*peaks())
    # What takes no compilation by Inductor first: its minutes may not be left at the end.
    passes = [own_implementations] + [compiled_implementations] * (not options.without_compile)
    for implementations in passes:
        for step in steps:
            recorder.say(f"{step}, {implementations.__name__.replace('_', ' ')}")
            with _released(options.device):
                measure_step(step, implementations, recorder)
    return 1 if recorder.errors else 0


class Recorder:
    """Rows on disk as soon as they are there."""

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self.environment = describe(device)
        self.rows: list[Row] = []
        self.errors: list[str] = []
        self.start = time.perf_counter()

    def add(self, *rows: Row) -> None:
        self.rows += rows
        write_csv(self.path, self.rows, self.environment)

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:4.0f} s] {text}", flush=True)

    def error(self, text: str) -> None:
        self.errors.append(text)
        self.say(f"ERROR {text}")


@contextlib.contextmanager
def _released(device: str) -> Iterator[None]:
    """Memory and compiled graphs are given back before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


# ------------------------------------------------------------------ implementations

#: The name of an implementation, and what makes a call of it.
Makers = dict[str, Callable[[], Call]]


def own_implementations(step: Step, inputs: Inputs) -> Makers:
    """The eager baseline and every backend, as they are and in a CUDA graph."""
    calls = {EAGER: _step_call(step, inputs, plain_step)}
    for backend in compiled_backends(step.case.device):
        calls[backend] = partial(run_step, _own_loss(step, inputs, backend), inputs.leaves, TRAINING)
    makers: Makers = {}
    for name, call in calls.items():
        makers[name] = partial(_itself, call)
        if step.case.device == "cuda":
            makers[name + GRAPH] = partial(captured, call)
    return makers


def compiled_implementations(step: Step, inputs: Inputs) -> Makers:
    """torch.compile in every way that this torch has."""

    def compiled(**settings: Any) -> Call:
        return _step_call(step, inputs, torch.compile(plain_step, fullgraph=True, dynamic=False, **settings))

    makers: Makers = {COMPILE: compiled}
    if step.case.device == "cuda":
        makers[REDUCE_OVERHEAD] = lambda: _marked(compiled(mode="reduce-overhead"))
    from torch._inductor import config

    if hasattr(config, "auto_chunker"):
        makers[AUTO_CHUNKER] = lambda: compiled(options={"auto_chunker.enable": True})
    return makers


def _itself(call: Call) -> Call:
    return call


def _step_call(step: Step, inputs: Inputs, loss: Callable[..., Tensor]) -> Call:
    pairs = None if step.mined else inputs.pairs
    function = partial(loss, *inputs.leaves, inputs.labels, pairs, step.case.norm)
    return partial(run_step, function, inputs.leaves, TRAINING)


def _own_loss(step: Step, inputs: Inputs, backend: str) -> Callable[[], Tensor]:
    settings: dict[str, Any] = {"backend": backend, "norm": step.case.norm}
    if not step.mined:
        return partial(fused, *inputs.leaves, inputs.labels, inputs.pairs, **settings)
    seed = torch.zeros((), dtype=torch.int64, device=step.case.device)
    return partial(fused, *inputs.leaves, inputs.labels, strategy=step.case.strategy, seed=seed, **settings)


def _marked(call: Call) -> Call:
    """Results of the call before may be overwritten: a graph need not keep them."""

    def marked() -> object:
        torch.compiler.cudagraph_mark_step_begin()
        return call()

    return marked


def captured(call: Call) -> Call:
    """Replays ``call`` from a CUDA graph, which keeps its results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a capture wants compiled kernels, a warm allocator and handle
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = call()

    def replay() -> object:
        graph.replay()
        return held

    return replay


# ------------------------------------------------------------------------ measuring


def measure_step(step: Step, implementations: Callable[[Step, Inputs], Makers], recorder: Recorder) -> None:
    """Every row of the implementations that run and agree."""
    case, pairs = step.case, "mined" if step.mined else "given"
    inputs = make_inputs(case)
    if implementations is own_implementations:
        try:
            require_equal_losses(case, inputs, losses(case))
        except Disagreement as error:
            recorder.error(f"wrong result, not timed: {error}")
            return
        except torch.OutOfMemoryError as error:
            note = f"no result is compared with it: {_line(error)}"
            recorder.add(_row(case, Key(EAGER, pairs), "failed", "", Spread.single(float("nan")), note))
    calls: dict[Key, Call] = {}
    for name, make in implementations(step, inputs).items():
        try:
            call = make()
            call()
            synchronise(case.device)
            calls[Key(name, pairs)] = call
        except Exception as error:  # the others are still worth measuring
            recorder.add(_row(case, Key(name, pairs), "failed", "", Spread.single(float("nan")), _line(error)))
            is_own = name.removesuffix(GRAPH) in compiled_backends(case.device)
            (recorder.error if is_own else recorder.say)(f"{name} at {step}: {_line(error)}")
    for key, seconds in measure(calls, EFFORT, case.device).items():
        recorder.add(_row(case, key, "step", "ms", Spread.of(seconds * 1e3)))
    for key, call in calls.items():
        recorder.add(_row(case, key, "host", "us", Spread.of(host_seconds(call, case.device) * 1e6)))
        if case.device == "cuda":
            recorder.add(_row(case, key, "memory", "MiB", Spread.single(peak_bytes(call) / 2**20)))
            recorder.add(*_profiled(case, key, call))


def _row(case: Case, key: Key, metric: str, unit: str, value: Spread, note: str = "") -> Row:
    return Row(SECTION, case, key, metric, unit, value, note=note)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def host_seconds(call: Call, device: str) -> np.ndarray:
    """Until a call returns that finds the device idle."""
    samples = []
    for _ in range(HOST_ROUNDS):
        synchronise(device)
        start = time.perf_counter()
        held = call()
        samples.append(time.perf_counter() - start)
        del held
    synchronise(device)
    return np.array(samples)


def peak_bytes(call: Call) -> int:
    """Of a replayed graph 0: its memory is its own."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held = call()
    torch.cuda.synchronize()
    del held
    return torch.cuda.max_memory_allocated() - before


def _profiled(case: Case, key: Key, call: Call) -> Iterator[Row]:
    """Device time and launches of a call, and of each of its kernels, where the profiler sees them."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    times: list[tuple[str, float]] = []
    for _ in range(2):  # the first one loads the tracer
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(PROFILED_CALLS):
                call()
            torch.cuda.synchronize()
        times = [
            (event.name, event.time_range.elapsed_us())
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ]
    if not times:
        return
    yield _row(case, key, "device", "us", Spread.single(sum(time for _, time in times) / PROFILED_CALLS))
    yield _row(case, key, "launches", "", Spread.single(len(times) / PROFILED_CALLS))
    launches = Counter(name for name, _ in times)
    for name, count in launches.items():
        total = sum(time for other, time in times if other == name)
        note = f"{count / PROFILED_CALLS:g} x {name[:120]}"
        yield _row(case, key, "kernel", "us", Spread.single(total / PROFILED_CALLS), note)


def peaks() -> Iterator[Row]:
    """What this very card reaches: bytes/s of a copy, FLOP/s of large products."""
    source = torch.empty(PEAK_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    calls: dict[Key, Call] = {Key("memory"): lambda: target.copy_(source)}
    amounts = {Key("memory"): 2.0 * PEAK_BYTES}
    for dtype in GPU_DTYPES:
        key, matrix = Key(dtype_name(dtype)), torch.randn(PEAK_SIZE, PEAK_SIZE, device="cuda", dtype=dtype)
        calls[key], amounts[key] = partial(torch.mm, matrix, matrix), 2.0 * PEAK_SIZE**3
    case = Case(Shape(PEAK_SIZE, PEAK_SIZE, PEAK_SIZE), "", "", device="cuda")
    for key, seconds in measure(calls, EFFORT, "cuda").items():
        yield Row(PEAKS, case, key, "peak", "T/s", Spread.of(amounts[key] / seconds / 1e12))


if __name__ == "__main__":
    sys.exit(main())
