"""six_way_bce: the loss from logits. `pytest benchmarks` runs this."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .agreement import require_equal_results
from .cases import Case, Shape, make_inputs
from .competitors import COMPILE, EAGER, FLOOR, MODES, Key, six_way_calls
from .suites import MOST_SECONDS, competitor_parameters, time_call

pytestmark = pytest.mark.benchmark(max_time=MOST_SECONDS, min_time=1e-4, min_rounds=5, disable_gc=True)


@competitor_parameters(EAGER, COMPILE, FLOOR)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
def test_six_way_bce(
    benchmark: BenchmarkFixture, device: str, competitor: str, shape: Shape, pairing: str, dtype: torch.dtype, mode: str
) -> None:
    case = Case(shape, pairing=pairing, dtype=dtype, device=device)
    calls = six_way_calls(case, make_inputs(case), mode)
    if competitor != FLOOR:
        results = {name: calls[Key(name)]() for name in (EAGER, competitor)}
        require_equal_results(case, results)
    time_call(benchmark, f"six_way_bce {mode} {case}", device, calls[Key(competitor)])
