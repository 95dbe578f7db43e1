"""The launches of a training step by the Triton kernels, recorded, and the load that each puts on a card.

What is launched is not stated here: the launchers run on tensors that hold nothing, see
``tests/triton_ahead_of_time.py``. A kernel without a line in :data:`LOADS` is an error.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from indeed_ext.constants import cdiv

from . import ROOT
from .card import FMA, MMA, RESIDENT_THREADS, TRITON, WGMMA, Kernel, Part
from .cases import LABEL_DTYPE, Step
from .cuda_kernels import scaled_gradients

ACCUMULATED, INDEX, ROW_SUMS, STATISTICS = 4, 8, 40, 32
PROBES = 32


@dataclass(frozen=True)
class Launch:
    """A recorded launch, its arguments by their names."""

    name: str
    grid: tuple[int, ...]
    tile: Any
    of: dict[str, Any]

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


def recorded(step: Step) -> list[Launch]:
    """What a step launches on a GPU before Blackwell, in order.

    Raises:
        ImportError: there is no Triton, or no tests/ beside this folder.
    """
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from triton_ahead_of_time import assumed_device, training_step

    case = step.case
    shape = (case.shape.batch, case.shape.width, case.shape.classes)
    with assumed_device("hopper"):
        found = training_step(case.dtype, shape, case.pairing, case.norm, pos_weight=False, labels=LABEL_DTYPE)
    return [
        Launch(
            each.kernel.__name__,
            each.grid,
            each.tile,
            dict(zip(each.kernel.arg_names, each.arguments, strict=False)) | each.constants,
        )
        for each in found
        if step.mined or each.kernel.__name__ not in MINING
    ]


MINING = ("anchor_kernel", "compatibility_kernel", "matching_kernel")


@dataclass(frozen=True)
class Load:
    """What a launch asks of a card, see :class:`.card.Kernel`."""

    parts: tuple[Part, ...]
    read: float
    written: float
    requested: float = 0.0
    resident: int = RESIDENT_THREADS // 128


def _bytes(*tensors: torch.Tensor | None) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors if tensor is not None)


def _pack_labels(launch: Launch) -> Load:
    of = launch.of
    return Load((Part(launch.programs, 2),), _bytes(of["labels"]), _bytes(of["positive_bits"], of["valid_bits"]))


def _anchor(launch: Launch) -> Load:
    of, tile = launch.of, launch.tile
    words = cdiv(of["words"], of["WORDS"])
    # In a batch of more than one tile, a sample without a hit among its probes looks at everybody, twice.
    scans = 0 if of["WHOLE"] else 2 * cdiv(of["batch"], tile.block_n)
    label_bytes = _bytes(of["positive_bits"])
    requested = launch.programs * label_bytes if of["WHOLE"] else (1 + PROBES) * label_bytes
    part = Part(launch.programs, 2 + words * (1 + scans))
    return Load((part,), label_bytes, _bytes(of["partner"]), requested)


def _map_statistics(launch: Launch) -> Load:
    of = launch.of
    rows, features, count = of["row_programs"], _bytes(of["features"]), of["count"]
    index = launch.programs - rows
    parts = (
        Part(rows, 3 + cdiv(of["width"], of["BLOCK_N"]) / 4),
        Part(index, 1 + cdiv(2 * count, of["INDEX_N"]) / 4),
    )
    written = count * STATISTICS + (_bytes(of["row_index"]) if index else 0)
    return Load(parts, features, written, 2 * features + index * 2 * count * INDEX)


def _terms(launch: Launch, *exact: bool) -> int:
    """Instructions a product takes: of an operand that is no sum of bfloat16 by itself two terms are multiplied."""
    if launch.of["PRECISION"] != "bf16":
        return 1
    return 1 + sum(not each for each in exact)


def _unit(launch: Launch, rows: int) -> str:
    """wgmma takes at least 64 rows."""
    if launch.of["PRECISION"] != "bf16":
        return FMA
    return WGMMA if rows >= 64 else MMA


def _steps(iterations: int, launch: Launch) -> float:
    """Loads of a loop that Triton pipelines are ahead by its stages."""
    return iterations / max(1, launch.tile.stages - 1)


def _logits(launch: Launch) -> Load:
    of, tile = launch.of, launch.tile
    rows, columns, _ = launch.grid
    exact = of["features"].dtype == torch.bfloat16
    terms = _terms(launch, exact, exact) + _terms(launch, False, exact)
    padded = rows * tile.block_m * columns * tile.block_n
    features, weight = _bytes(of["features"]), of["classes"] * of["width"] * of["weight"].itemsize
    part = Part(
        launch.programs,
        3 + _steps(cdiv(of["split_width"], tile.block_k), launch),
        2.0 * terms * padded * of["width"],
        _unit(launch, tile.block_m),
    )
    requested = columns * 2 * features + rows * weight
    return Load((part,), features + weight, _bytes(of["partials"]), requested, resident=1)


def _bce_epilogue(launch: Launch) -> Load:
    of, tile = launch.of, launch.tile
    count, classes = of["count"], of["classes"]
    steps = 3 + cdiv(classes, tile.block_n) * (3 + of["splits"] / 4)
    labels = _bytes(of["positive_bits"], of["valid_bits"])
    gradients = 2 * count * classes * of["grad_logits"].itemsize
    written = gradients + _bytes(of["bias_partials"]) + count * (ROW_SUMS + ACCUMULATED)
    return Load((Part(launch.programs, steps),), _bytes(of["partials"]) + 2 * labels, written)


def _grad_products(launch: Launch) -> Load:
    of = launch.of
    count, classes, width = of["count"], of["classes"], of["width"]
    feature, weight = of["feature_programs"], of["weight_programs"]
    exact = of["features"].dtype == torch.bfloat16
    padded_width = of["column_tiles"] * of["BLOCK_N"]
    row_tiles, class_tiles = cdiv(count, of["FEATURES_M"]), cdiv(classes, of["WEIGHT_M"])
    # Gradients by logits, and of bfloat16 identical features as well, are one term here.
    feature_flops = 2.0 * 2 * _terms(launch, exact) * row_tiles * of["FEATURES_M"] * padded_width * classes
    weight_flops = 2.0 * 2 * _terms(launch, exact) * class_tiles * of["WEIGHT_M"] * padded_width * count
    feature_steps = 2 + _steps(cdiv(classes, of["FEATURES_K"]), launch)
    bias_steps, loss_steps = cdiv(of["bias_tiles"], of["BIAS_M"]), 3 * cdiv(count, of["LOSS_N"])
    parts = (
        Part(of["reduce_programs"], 2 + max(bias_steps, loss_steps) / 4),
        Part(feature, feature_steps, feature_flops, _unit(launch, of["FEATURES_M"])),
        # The partners of the rows, then their features, then the sums: nothing of it is fetched ahead.
        Part(weight, 3.0 * cdiv(of["split_rows"], of["WEIGHT_K"]), weight_flops, _unit(launch, of["WEIGHT_M"])),
    )
    gradients, made = 2 * count * classes * of["grad_logits"].itemsize, 2 * count * width * ACCUMULATED
    grad_weight = _bytes(of["weight_partials"]) if of["weight_splits"] > 1 else _bytes(of["grad_weight"])
    features, weights = _bytes(of["features"]), classes * width * of["weight"].itemsize
    before = made if of["first_class"] else 0
    requested = 2 * of["column_tiles"] * gradients + row_tiles * weights + 2 * class_tiles * features + before + made
    read = gradients + weights + features + before + _bytes(of["bias_partials"])
    return Load(parts, read, made + grad_weight, requested, resident=1)


def _map_backward(launch: Launch) -> Load:
    of = launch.of
    features = _bytes(of["features"])
    sums, made = (_bytes(of["weight_partials"]), _bytes(of["grad_weight"])) if of["weight_size"] else (0, 0)
    read = features + _bytes(of["map_gradient"], of["grad_source"]) + sums
    requested = 3 * features + 2 * _bytes(of["map_gradient"]) + _bytes(of["grad_source"]) + sums
    samples = of["sample_programs"]
    parts = (
        # Of a sample in three rows: the row, its pair and statistics, features and T.
        Part(samples, 2 + 3 * 3),
        Part(launch.programs - samples, 1 + of["weight_splits"] / 4),
    )
    return Load(parts, read, _bytes(of["result"]) + made, requested)


def _partial_sums(launch: Launch) -> Load:
    of = launch.of
    part = Part(launch.programs, 1 + of["parts"] / 4)
    return Load((part,), _bytes(of["partials"]), _bytes(of["result"]))


#: A kernel to its load.
LOADS: dict[str, Callable[[Launch], Load]] = {
    "pack_labels_kernel": _pack_labels,
    "anchor_kernel": _anchor,
    "map_statistics_kernel": _map_statistics,
    "logits_kernel": _logits,
    "bce_epilogue_kernel": _bce_epilogue,
    "grad_products_kernel": _grad_products,
    "map_backward_kernel": _map_backward,
    "partial_sums_kernel": _partial_sums,
}


def kernels(step: Step) -> list[Kernel]:
    """The launches of a step, and those of torch that scale its gradients.

    Raises:
        ImportError: see :func:`recorded`.
    """
    found = []
    for launch in recorded(step):
        load = LOADS[launch.name](launch)
        found.append(
            Kernel(launch.name, load.parts, load.read, load.written, load.requested, load.resident, launcher=TRITON)
        )
    return [*found, *scaled_gradients()]
