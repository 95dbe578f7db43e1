"""Launching kernels on the device of their tensors, and counting the launches."""

import contextlib
from typing import Any

import torch

from .config import Tile

_launches = 0


def launch_count() -> int:
    """Kernels launched by this backend since the process began."""
    return _launches


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, *arguments: Any, **constants: Any) -> None:
    """Queue ``kernel`` on the current stream of the device its first tensor lies on; nothing for an empty grid."""
    if 0 not in grid:
        _enqueue(kernel, grid, tile, arguments, constants)


def _enqueue(
    kernel: Any, grid: tuple[int, ...], tile: Tile, arguments: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    global _launches
    _launches += 1
    device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, **constants, num_warps=tile.warps, num_stages=tile.stages)
