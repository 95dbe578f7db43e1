"""Timing other tiles than the table's, where INDEED_TRITON_AUTOTUNE=1 asks for it.

The first loss of a size (to powers of two) on a kind of device is computed with every candidate, and waits for them;
the fastest is kept for the process and in a file for later ones. As tiles decide the order of sums, results of two
machines may then differ in their last bits. While a CUDA graph is captured nothing is timed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from .config import Configuration, Tile, line_of

ENVIRONMENT_VARIABLE = "INDEED_TRITON_AUTOTUNE"
CACHE_VARIABLE = "INDEED_TRITON_AUTOTUNE_CACHE"
_REPEATS = 5

_chosen: dict[str, Configuration] = {}


def is_wanted(features: Tensor) -> bool:
    """Whether tiles for a loss of these features are to be looked for."""
    asked = os.environ.get(ENVIRONMENT_VARIABLE, "0").lower() in ("1", "true", "on")
    return asked and features.is_cuda and not torch.cuda.is_current_stream_capturing()


def cache_file() -> Path:
    """Where choices are kept: the file INDEED_TRITON_AUTOTUNE_CACHE names, else one in the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "indeed_ext" / "triton-tiles.json"


def key_of(device: str, rows: int, width: int, classes: int, dtype: torch.dtype, accumulation: torch.dtype) -> str:
    """What a choice holds for."""
    sizes = (triton.next_power_of_2(size) for size in (rows, width, classes))
    return "/".join(map(str, (device, triton.__version__, *line_of(rows, classes, dtype, accumulation), *sizes)))


def candidates(table: Configuration) -> list[Configuration]:
    """The table's tiles, and others around them: narrower products, other warps, stages and numbers of parts."""
    found = [table]
    for warps, stages, narrow, programs in itertools.product((4, 8), (1, 2, 3), (False, True), (64, 128)):

        def varied(tile: Tile, warps: int = warps, stages: int = stages, narrow: bool = narrow) -> Tile:
            columns = max(16, tile.columns // 2) if narrow else tile.columns
            return replace(tile, columns=columns, warps=warps, stages=stages)

        products = (varied(tile) for tile in (table.logits, table.features, table.weight))
        found.append(replace(table, **dict(zip(("logits", "features", "weight"), products, strict=True))))
        found[-1] = replace(found[-1], programs=programs)
    return list(dict.fromkeys(found))


def tuned(key: str, table: Configuration, time: Callable[[Configuration], float]) -> Configuration:
    """The fastest candidate as ``time`` finds it, unless it was found before."""
    if key not in _chosen:
        known = _read().get(key)
        try:
            _chosen[key] = _configuration(known) if known else _fastest(key, table, time)
        except (AttributeError, TypeError):  # the file is of another version of this package
            _chosen[key] = _fastest(key, table, time)
    return _chosen[key]


def device_time(call: Callable[[], object]) -> float:
    """Milliseconds of a call on the device, after one that compiles; infinite if the device cannot run it."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    try:
        call()
        start.record()
        for _ in range(_REPEATS):
            call()
        end.record()
        end.synchronize()
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    return start.elapsed_time(end) / _REPEATS


def _fastest(key: str, table: Configuration, time: Callable[[Configuration], float]) -> Configuration:
    best = min(candidates(table), key=time)
    file = cache_file()
    # Another process may write as well: the file is replaced whole, and at worst a choice is made again.
    text = json.dumps(_read() | {key: asdict(best)}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(file)
    except OSError:  # a choice that cannot be kept is good for this process
        pass
    return best


def _read() -> dict[str, Any]:
    try:
        return dict(json.loads(cache_file().read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _configuration(values: dict[str, Any]) -> Configuration:
    return Configuration(**{name: Tile(**each) if isinstance(each, dict) else each for name, each in values.items()})
