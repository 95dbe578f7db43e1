"""Launching kernels on the device of their tensors, and counting the launches."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .config import Tile

_launches = 0


@dataclass(frozen=True)
class Launch:
    """A launch that was recorded in place of being made."""

    kernel: Any
    grid: tuple[int, ...]
    tile: Tile
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


_record: list[Launch] | None = None


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches made in this context are listed and not made: what they would have written stays undefined."""
    global _record
    _record = []
    try:
        yield _record
    finally:
        _record = None


def launch_count() -> int:
    """Kernels launched by this backend since the process began."""
    return _launches


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, *arguments: Any, **constants: Any) -> None:
    """Queue ``kernel`` on the current stream of the device its first tensor lies on; nothing for an empty grid."""
    if 0 in grid:
        return
    if _record is not None:
        _record.append(Launch(kernel, grid, tile, arguments, constants))
        return
    global _launches
    _launches += 1
    device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, **constants, num_warps=tile.warps, num_stages=tile.stages)
