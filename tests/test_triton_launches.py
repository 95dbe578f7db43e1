"""The load that launches of the Triton kernels put on a device, worked out from their grids and tiles without one.

Bytes are compared with those of a kernel's own operands: every array once, features once for sources and once for
partners. Re-reads by several programs are the difference. docs/gpu.md has the figures that compiled code gives.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from indeed_ext import available_backends, backends
from indeed_ext.constants import STRATEGIES, cdiv

BATCH, WIDTH, CLASSES = 128, 2048, 80
ACCUMULATED = 4  # bytes of a float32
SECTOR = 32
PROBES = 32  # samples that ``anchor`` draws for each


@pytest.fixture(autouse=True)
def _triton() -> None:
    if "triton" not in available_backends() and "not installed" in backends.missing_reasons()["triton"]:
        pytest.skip(backends.missing_reasons()["triton"])


def _launches(
    dtype: torch.dtype, kind: str = "hopper", strategy: str = "anchor", shape: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """The launches of a training step by kernel."""
    from triton_ahead_of_time import assumed_device, training_step

    with assumed_device(kind):
        launches = training_step(dtype, shape or (BATCH, WIDTH, CLASSES), strategy, pos_weight=False)
    by_name = {launch.kernel.__name__: launch for launch in launches}
    assert len(by_name) == len(launches), "a kernel is launched twice"
    return by_name


def _named(launch: Any) -> dict[str, Any]:
    return dict(zip(launch.kernel.arg_names, launch.arguments, strict=False)) | launch.constants


@pytest.mark.parametrize("classes", [1, 80, 1024])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_at_most_eight_launches(dtype: torch.dtype, strategy: str, classes: int) -> None:
    """Packing, mining, loss and all gradients, at the tiles of a device."""
    launches = _launches(dtype, strategy=strategy, shape=(512, WIDTH, classes))
    assert len(launches) == (7 if strategy == "anchor" else 8)


@pytest.mark.parametrize("kind", ["ampere", "hopper", "blackwell", "hip"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_products_start_enough_programs(dtype: torch.dtype, kind: str) -> None:
    """A training batch fills a GPU only if the features are cut into parts."""
    launches = _launches(dtype, kind)
    for name in ("logits_kernel", "bce_epilogue_kernel", "grad_products_kernel", "map_backward_kernel"):
        assert math.prod(launches[name].grid) >= 64, name


@pytest.mark.parametrize("shape", [(128, 2048, 80), (1, 1, 1), (3, 33, 65), (128, 2047, 80), (512, 2048, 1024)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_parts_cover_the_features_once(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Every part begins inside the features: a program beyond them would leave nothing but wasted memory."""
    launch = _launches(dtype, shape=shape)["logits_kernel"]
    named, parts = _named(launch), launch.grid[2]
    assert named["split_width"] % launch.tile.block_k == 0
    assert (parts - 1) * named["split_width"] < shape[1] <= parts * named["split_width"]
    assert named["partials"].shape[0] == parts


def test_large_sizes_are_not_cut() -> None:
    launches = _launches(torch.bfloat16, shape=(2048, 2048, 1024))
    assert launches["logits_kernel"].grid == (16, 8, 1)
    assert _named(launches["grad_products_kernel"])["weight_splits"] == 1
    assert launches["map_backward_kernel"].grid[0] == _named(launches["map_backward_kernel"])["sample_programs"]


#: (B, n, C) of a training batch, of a large one, and of many classes.
_SIZES = [(128, 2048, 80), (4096, 2048, 80), (256, 4096, 1000)]
#: What is assumed of the device: bytes a second, and operations a second of products in a type.
_BANDWIDTH = 3e12
_OPERATIONS = {torch.bfloat16: 8e14, torch.float32: 6e13}


def _microseconds(launch: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """The least a launch takes: every operand goes through memory once, products at the peak of the device."""
    tensors = {each.data_ptr(): each for each in launch.arguments if isinstance(each, torch.Tensor)}
    moved = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()) / _BANDWIDTH
    products = {"logits_kernel": 1, "grad_products_kernel": 2}.get(launch.kernel.__name__, 0)
    return 1e6 * max(moved, products * 2 * 2 * math.prod(shape) / _OPERATIONS[dtype])


@pytest.mark.parametrize("shape", _SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_launches_with_work_fill_the_device(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """No launch of more than 20 microseconds leaves more than a twentieth of them without a program."""
    from indeed_ext.triton_kernels import config

    enough = 0.95 * config.multiprocessors(torch.device("cpu"))
    for name, launch in _launches(dtype, shape=shape).items():
        least = _microseconds(launch, shape, dtype)
        assert math.prod(launch.grid) >= enough or least < 20, (name, launch.grid, least)


def _steps(launches: dict[str, Any]) -> dict[str, int]:
    """How often the longest program of a launch waits for memory, one time behind the other."""
    logits, gradients = _named(launches["logits_kernel"]), _named(launches["grad_products_kernel"])
    epilogue, maps = _named(launches["bce_epilogue_kernel"]), _named(launches["map_backward_kernel"])
    count, classes = gradients["count"], gradients["classes"]
    parts_at_once = 4
    return {
        "logits": cdiv(logits["split_width"], logits["BLOCK_K"]),
        "cross-entropies": cdiv(classes, epilogue["BLOCK_N"]) * sum(divmod(epilogue["splits"], parts_at_once)),
        "V and T": cdiv(classes, gradients["FEATURES_K"]),
        "weight": cdiv(gradients["split_rows"], gradients["WEIGHT_K"]),
        "bias": cdiv(gradients["bias_tiles"], gradients["BIAS_M"]),
        "loss": cdiv(count, gradients["LOSS_N"]),
        "parts of the weight": sum(divmod(maps["weight_splits"], parts_at_once)),
    }


@pytest.mark.parametrize(("shape", "bound"), [*zip(_SIZES, (10, 20, 32), strict=True)], ids=str)
def test_serial_steps(shape: tuple[int, int, int], bound: int) -> None:
    steps = _steps(_launches(torch.bfloat16, shape=shape))
    assert max(steps.values()) <= bound, steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_serial_steps_of_the_weight_do_not_grow_with_the_batch(dtype: torch.dtype) -> None:
    for batch in (4096, 16384):
        assert _steps(_launches(dtype, shape=(batch, 2048, 80)))["weight"] <= 64


def test_programs_that_take_longer_begin_earlier() -> None:
    """The weight's gradient where there are many rows, V and T where there are many classes; ranges do not overlap."""
    for shape, weight_leads in (((4096, 2048, 80), True), ((256, 4096, 1000), False)):
        launch = _launches(torch.bfloat16, shape=shape)["grad_products_kernel"]
        named = _named(launch)
        assert (named["weight_start"] < named["feature_start"]) == weight_leads
        covered = list(range(named["reduce_programs"]))
        for kind in ("weight", "feature"):
            start, programs = named[f"{kind}_start"], named[f"{kind}_programs"]
            covered += range(start, start + programs)
        assert sorted(covered) == list(range(launch.grid[0]))


def _logits(launch: Any, element: int) -> tuple[int, int]:
    row_tiles, class_tiles, parts = launch.grid
    features, weight = 2 * BATCH * WIDTH * element, CLASSES * WIDTH * element
    partials = parts * 2 * BATCH * CLASSES * ACCUMULATED
    return class_tiles * features + row_tiles * weight + partials, features + weight + partials


def _bce_epilogue(launch: Any, element: int) -> tuple[int, int]:
    named = _named(launch)
    partials = named["partials"].numel() * ACCUMULATED
    gradients = 2 * BATCH * CLASSES * named["grad_logits"].itemsize
    bias = launch.grid[0] * CLASSES * (element + ACCUMULATED)
    return partials + gradients + bias, partials + gradients + CLASSES * element + launch.grid[0] * CLASSES * 4


def _gradients(launch: Any, element: int) -> tuple[int, int]:
    named = _named(launch)
    columns, splits = named["column_tiles"], named["weight_splits"]
    row_tiles = named["feature_programs"] // columns
    class_tiles = named["weight_programs"] // columns // splits
    features, weight = 2 * BATCH * WIDTH * element, CLASSES * WIDTH * element
    gradients, written = 2 * BATCH * CLASSES * named["grad_logits"].itemsize, 2 * BATCH * WIDTH * ACCUMULATED
    grad_weight = splits * CLASSES * WIDTH * ACCUMULATED if splits > 1 else weight
    # V and T: gradients of the logits for every tile of features, weights for every tile of rows. The weight's
    # gradient: gradients of the logits again, features for every tile of classes.
    requested = (
        columns * gradients + row_tiles * weight + written + columns * gradients + class_tiles * features + grad_weight
    )
    return requested, gradients + weight + written + gradients + features + grad_weight


def _maps(launch: Any, element: int) -> tuple[int, int]:
    named = _named(launch)
    rows = BATCH * WIDTH
    # A sample's own features, those of the other side of its row and of the row it is the partner of; V; T of both.
    operands = 3 * rows * element + rows * ACCUMULATED + 2 * rows * ACCUMULATED + rows * element
    # The parts of the weight's gradient, and itself.
    operands += named["weight_partials"].numel() * ACCUMULATED + named["weight_size"] * element
    # Per program, visit and warp, a sector for each of the index, the pair and the statistics.
    words = 2 + (6 if named["MINMAX"] else 4)
    return operands + named["sample_programs"] * 2 * launch.tile.warps * words * SECTOR, operands


def _statistics(launch: Any, element: int) -> tuple[int, int]:
    named = _named(launch)
    operands = 2 * BATCH * WIDTH * element + 6 * BATCH * ACCUMULATED + named["row_index"].numel() * 4
    # A program that makes the index looks at all endpoints, every one to a few threads.
    return operands + (launch.grid[0] - named["row_programs"]) * 2 * BATCH * 8 * 4, operands


def _label_words() -> int:
    return BATCH * -(-CLASSES // 32) * 4


def _packing(launch: Any, element: int) -> tuple[int, int]:
    operands = BATCH * CLASSES * _named(launch)["labels"].itemsize + 2 * _label_words()
    return operands, operands


def _comparisons(launch: Any, element: int) -> tuple[int, int]:
    row_tiles, column_tiles = launch.grid
    written = BATCH * BATCH // 8 + BATCH * 8
    return (column_tiles + row_tiles) * _label_words() + written, 2 * _label_words() + written


#: Bytes requested by bytes of the operands. Products with the gradients of the logits cannot start 64 programs and keep
#: to 1.3: see docs/gpu.md.
_BOUNDS = {
    "pack_labels_kernel": (_packing, 1.3),
    "compatibility_kernel": (_comparisons, 1.3),
    "map_statistics_kernel": (_statistics, 1.3),
    "logits_kernel": (_logits, 1.3),
    "bce_epilogue_kernel": (_bce_epilogue, 1.3),
    "grad_products_kernel": (_gradients, 1.6),
    "map_backward_kernel": (_maps, 1.3),
}


@pytest.mark.parametrize("name", _BOUNDS)
def test_requested_bytes(name: str) -> None:
    model, bound = _BOUNDS[name]
    strategy = "matching" if name == "compatibility_kernel" else "anchor"
    requested, operands = model(_launches(torch.bfloat16, strategy=strategy)[name], 2)
    assert operands <= requested <= bound * operands, requested / operands


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_take_whole_sectors(dtype: torch.dtype) -> None:
    """The part of a row of features, weights or gradients that a program reads begins and ends with a sector."""
    launches = _launches(dtype)
    logits, gradients = _named(launches["logits_kernel"]), _named(launches["grad_products_kernel"])
    maps, statistics = _named(launches["map_backward_kernel"]), _named(launches["map_statistics_kernel"])
    runs = {
        "features, weights": (logits["BLOCK_K"] * dtype.itemsize, logits["split_width"] * dtype.itemsize),
        "partial sums": (CLASSES * ACCUMULATED, logits["BLOCK_N"] * ACCUMULATED),
        "columns of the gradients": (gradients["BLOCK_N"] * dtype.itemsize,),
        "classes of the gradients": (gradients["FEATURES_K"] * ACCUMULATED, gradients["WEIGHT_M"] * ACCUMULATED),
        "maps": (maps["BLOCK_N"] * dtype.itemsize,),
        "statistics": (statistics["BLOCK_N"] * dtype.itemsize,),
    }
    for what, sizes in runs.items():
        assert all(size % SECTOR == 0 for size in sizes), what


def _used(*parts: tuple[int, int, int]) -> float:
    """Bytes by those of their sectors, of parts (bytes of a run, runs one behind the other, times each is accessed).

    A run is what one instruction of a warp, or several of them in whole sectors, take at once.
    """
    used = sectors = 0
    for run, runs, times in parts:
        used += times * runs * run
        sectors += times * sum((at + run - 1) // SECTOR - at // SECTOR + 1 for at in range(0, runs * run, run))
    return used / (sectors * SECTOR)


def _packing_runs(launch: Any) -> list[tuple[int, int, int]]:
    named, programs = _named(launch), math.prod(launch.grid)
    return [(CLASSES * named["labels"].itemsize, BATCH, 1), (_label_words() // programs, programs, 2)]


def _anchor_runs(launch: Any) -> list[tuple[int, int, int]]:
    programs, warps = math.prod(launch.grid), launch.tile.warps
    words, own = (_label_words(), 1, programs), (_label_words() // programs, programs, warps)
    return [words, own, (8, 1, programs * warps), (8 * launch.tile.block_m, programs, 1)]


def _compatibility_runs(launch: Any) -> list[tuple[int, int, int]]:
    programs, warps = math.prod(launch.grid), launch.tile.warps
    words, own = (_label_words(), 1, programs), (_label_words() // programs, programs, warps)
    return [words, own, (BATCH * BATCH // 8 // programs, programs, 1), (8 * launch.tile.block_m, programs, 1)]


def _statistics_runs(launch: Any) -> list[tuple[int, int, int]]:
    named = _named(launch)
    features = (WIDTH * named["features"].itemsize, BATCH, 2)
    return [features, (launch.tile.block_m * ACCUMULATED, 6 * named["row_programs"], 1)]


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("pack_labels_kernel", _packing_runs),
        ("anchor_kernel", _anchor_runs),
        ("compatibility_kernel", _compatibility_runs),
        ("map_statistics_kernel", _statistics_runs),
    ],
)
def test_short_runs_leave_most_of_their_sectors_used(name: str, runs: Any) -> None:
    """Of the kernels that read or write a few bytes in a row: words of labels, partners, statistics of a few rows."""
    launch = _launches(torch.bfloat16, strategy="matching" if name == "compatibility_kernel" else "anchor")[name]
    assert _used(*runs(launch)) >= 0.9


def test_mining_reads_a_batch_in_order() -> None:
    """Where that asks for no more words than those of every sample and of all that it draws, at random."""
    anchor = _launches(torch.bfloat16)["anchor_kernel"]
    assert _named(anchor)["WHOLE"]
    assert anchor.tile.block_n >= BATCH
    assert math.prod(anchor.grid) * _label_words() <= (1 + PROBES) * _label_words()
    assert not _named(_launches(torch.bfloat16, shape=(512, WIDTH, CLASSES))["anchor_kernel"])["WHOLE"]


def test_matching_tiles_read_a_word_once() -> None:
    """A tile has a word of 32 bits for every thread, else Triton lets all threads load the words they need bits of."""
    for dtype in (torch.bfloat16, torch.float32):
        tile = _launches(dtype, strategy="matching")["matching_kernel"].tile
        assert tile.block_m * tile.block_n // 32 >= 32 * tile.warps
