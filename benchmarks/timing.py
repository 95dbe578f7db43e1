"""Interleaved timing: in every round each call once, in random order, so that all meet the same conditions.

A ratio is taken within each round and only then summarised: what slows a round slows both sides of it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

#: Calls are repeated within a sample until it lasts this long, well above the clock's resolution.
SAMPLE_SECONDS = 4e-3
#: Calls before the first sample; one that takes long is warm after less.
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.3

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the quartiles around it."""

    median: float
    lower: float
    upper: float
    rounds: int = 1

    @staticmethod
    def of(values: np.ndarray) -> Spread:
        lower, median, upper = np.percentile(values, (25, 50, 75))
        return Spread(float(median), float(lower), float(upper), len(values))

    @staticmethod
    def single(value: float) -> Spread:
        """Of something that has no spread."""
        return Spread(value, value, value)


@dataclass(frozen=True)
class Effort:
    """How long to measure: at most ``rounds`` rounds and, beyond ``min_rounds``, ``seconds`` for a case."""

    rounds: int = 21
    seconds: float = 6.0
    min_rounds: int = 5

    def rounds_for(self, round_seconds: float) -> int:
        """The number of rounds where one takes ``round_seconds``."""
        return max(min(self.rounds, int(self.seconds / round_seconds)), min(self.rounds, self.min_rounds))


def synchronise(device: str) -> None:
    """Wait for the device, so that the clock sees its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measure(calls: Mapping[K, Callable[[], object]], effort: Effort, device: str = "cpu") -> dict[K, np.ndarray]:
    """Seconds of each call, one number per round."""
    repeats = {key: _repeats(call, device) for key, call in calls.items()}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        _round(calls, repeats, list(calls), device)
        rounds = effort.rounds_for(time.perf_counter() - start)
        order, shuffler = list(calls), random.Random(0)
        samples: dict[K, list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            shuffler.shuffle(order)
            for key, seconds in _round(calls, repeats, order, device).items():
                samples[key].append(seconds)
    finally:
        if was_enabled:
            gc.enable()
    return {key: np.array(values) for key, values in samples.items()}


def _round(
    calls: Mapping[K, Callable[[], object]], repeats: Mapping[K, int], order: list[K], device: str
) -> dict[K, float]:
    return {key: _sample(calls[key], repeats[key], device) for key in order}


def _sample(call: Callable[[], object], repeats: int, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object], device: str) -> int:
    seconds, start = _sample(call, 1, device), time.perf_counter()
    for _ in range(WARM_UP_CALLS - 1):
        if seconds + time.perf_counter() - start < WARM_UP_SECONDS:
            seconds = _sample(call, 1, device)
    return max(1, round(SAMPLE_SECONDS / seconds))


def geometric_mean(values: list[float]) -> float:
    """NaN of none."""
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
