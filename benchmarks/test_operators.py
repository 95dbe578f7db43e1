"""One benchmark for each operator; `pytest benchmarks` runs them, with the options of conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .agreement import require_equal_losses, require_equal_results, require_valid_mining
from .baselines import (
    COMPILE,
    COPY,
    EAGER,
    MODES,
    THREE_GEMMS,
    Call,
    Key,
    compiled_backends,
    compiled_loss,
    identical_disparate_calls,
    loss_calls,
    losses,
    mining_call,
    six_way_bce_calls,
)
from .cases import NORMS, PAIRINGS, STRATEGIES, Case, Shape, make_inputs, make_labels
from .timing import WARM_UP_CALLS, synchronise

#: Seconds a single benchmark may take, beyond pytest-benchmark's fewest rounds.
MAX_SECONDS = 0.2

pytestmark = pytest.mark.benchmark(max_time=MAX_SECONDS, min_time=1e-4, min_rounds=5, disable_gc=True)


def implementations(*baselines: str) -> pytest.MarkDecorator:
    """Parametrises ``device`` and ``name``: the baselines and every backend of the device."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() and compiled_backends("cuda") else [])]
    found = [(device, name) for device in devices for name in (*baselines, *compiled_backends(device))]
    return pytest.mark.parametrize(("device", "name"), found, ids=[f"{device}-{name}" for device, name in found])


def time_call(benchmark: BenchmarkFixture, group: str, device: str, call: Call) -> None:
    """One line of the table ``group``; on a GPU until the device is done."""

    def until_done() -> None:
        call()
        synchronise(device)

    benchmark.group = f"{group} on {device}"
    for _ in range(WARM_UP_CALLS):
        until_done()
    benchmark(until_done)


def time_step(
    benchmark: BenchmarkFixture, case: Case, mode: str, name: str, make: Callable[..., dict[str, Call]]
) -> None:
    """One line of a step that ``make`` gives the calls of."""
    calls = make(case, make_inputs(case), mode)
    if name != COPY:
        require_equal_results(case, {each: calls[each]() for each in (EAGER, name)})
    time_call(benchmark, f"{make.__name__.removesuffix('_calls')} {mode} {case}", case.device, calls[name])


@implementations(EAGER, COMPILE, THREE_GEMMS)
@pytest.mark.parametrize("pairs", ["mined", "given"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_fused_indeed_loss(
    benchmark: BenchmarkFixture,
    device: str,
    name: str,
    shape: Shape,
    dtype: torch.dtype,
    norm: str,
    pairing: str,
    mode: str,
    pairs: str,
) -> None:
    """The whole loss, mining included or pairs given."""
    case = Case(shape, norm, pairing, dtype, device)
    if pairs == "mined" and not case.strategy:
        pytest.skip("a pair list is always given")
    inputs = make_inputs(case)
    every = losses(case, compiled_loss(case) if name == COMPILE else None)
    chosen = {each: every[each] for each in (EAGER, name) if each in every}
    require_equal_losses(case, inputs, chosen)
    key = Key(name) if name == THREE_GEMMS else Key(name, pairs)
    call = loss_calls(case, inputs, chosen, mode)[key]
    time_call(benchmark, f"fused_indeed_loss {mode}, pairs {pairs}, {case}", device, call)


@implementations(EAGER, COMPILE, COPY)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", NORMS)
def test_identical_disparate(
    benchmark: BenchmarkFixture,
    device: str,
    name: str,
    shape: Shape,
    norm: str,
    pairing: str,
    dtype: torch.dtype,
    mode: str,
) -> None:
    """Identical and disparate features of every row."""
    time_step(benchmark, Case(shape, norm, pairing, dtype, device), mode, name, identical_disparate_calls)


@implementations(EAGER, COMPILE, COPY)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
def test_six_way_bce(
    benchmark: BenchmarkFixture, device: str, name: str, shape: Shape, pairing: str, dtype: torch.dtype, mode: str
) -> None:
    """The loss from logits."""
    time_step(benchmark, Case(shape, "l2", pairing, dtype, device), mode, name, six_way_bce_calls)


@implementations(EAGER)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("batch", "classes"), [(64, 20), (128, 80), (512, 80), (1024, 80), (1024, 10_000)])
def test_mine_pairs(
    benchmark: BenchmarkFixture, device: str, name: str, batch: int, classes: int, strategy: str
) -> None:
    """Partners from float labels, packing included."""
    labels = make_labels(batch, classes).to(device)
    call = mining_call(name, labels, strategy, classes)
    require_valid_mining(labels, strategy, {name: call()})
    time_call(benchmark, f"mine_pairs {strategy}, batch {batch}, {classes} classes", device, call)
