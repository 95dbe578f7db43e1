"""fused_indeed_loss: the whole loss, mining included or pairs given. `pytest benchmarks` runs this."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .agreement import require_equal_losses
from .cases import NORMS, PAIRINGS, Case, Shape, make_inputs
from .competitors import COMPILE, EAGER, FLOOR, MODES, Key, compiled_loss, loss_calls, losses
from .suites import MOST_SECONDS, competitor_parameters, time_call

pytestmark = pytest.mark.benchmark(max_time=MOST_SECONDS, min_time=1e-4, min_rounds=5, disable_gc=True)


@competitor_parameters(EAGER, COMPILE, FLOOR)
@pytest.mark.parametrize("pairs", ["mined", "given"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_fused_indeed_loss(
    benchmark: BenchmarkFixture,
    device: str,
    competitor: str,
    shape: Shape,
    dtype: torch.dtype,
    norm: str,
    pairing: str,
    mode: str,
    pairs: str,
) -> None:
    case = Case(shape, norm, pairing, dtype, device)
    if pairs == "mined" and not case.strategy:
        pytest.skip("a pair list is always given")
    inputs = make_inputs(case)
    everybody = losses(case, compiled_loss(case) if competitor == COMPILE else None)
    competing = {name: loss for name, loss in everybody.items() if name in (EAGER, competitor)}
    require_equal_losses(case, inputs, competing)
    calls = loss_calls(case, inputs, competing, mode)
    key = Key(FLOOR) if competitor == FLOOR else Key(competitor, pairs)
    time_call(benchmark, f"fused_indeed_loss {mode}, pairs {pairs}, {case}", device, calls[key])
