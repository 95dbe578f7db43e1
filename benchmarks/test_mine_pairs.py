"""mine_pairs: partners from float labels, packing included. `pytest benchmarks` runs this."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .agreement import require_valid_mining
from .cases import STRATEGIES, make_labels
from .competitors import EAGER, Key, mining_calls
from .suites import MOST_SECONDS, competitor_parameters, time_call

pytestmark = pytest.mark.benchmark(max_time=MOST_SECONDS, min_time=1e-4, min_rounds=5, disable_gc=True)


@competitor_parameters(EAGER)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("batch", "classes"), [(64, 20), (128, 80), (512, 80), (1024, 80), (1024, 10_000)])
def test_mine_pairs(
    benchmark: BenchmarkFixture, device: str, competitor: str, batch: int, classes: int, strategy: str
) -> None:
    labels = make_labels(batch, classes, torch.Generator().manual_seed(0)).to(device)
    call = mining_calls(labels, strategy)[Key(competitor)]
    require_valid_mining(labels, strategy, {Key(competitor): call()})
    time_call(benchmark, f"mine_pairs {strategy}, batch {batch}, {classes} classes", device, call)
