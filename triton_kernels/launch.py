"""Launching kernels on the device of their tensors, and counting the launches.

For every launch Triton binds the arguments, looks at each for what it compiles by and makes a text of all that, which
takes longer than what the kernel does for a training batch. So the compiled kernel of a launch is kept, and launched
itself where another agrees with it in all that Triton may look at.
"""

import contextlib
from typing import Any

import torch

from .config import Tile

_launches = 0

#: Compiled kernels by kernel, schedule, device, arguments and constants. It forgets all where sizes keep changing.
_compiled: dict[Any, Any] = {}
_MOST_COMPILED = 4096


def launch_count() -> int:
    """Kernels launched by this backend since the process began."""
    return _launches


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, *arguments: Any, **constants: Any) -> None:
    """Queue ``kernel`` on the current stream of the device its first argument lies on; nothing for an empty grid.

    ``constants`` stand in the order of the kernel's parameters, behind the others.
    """
    if 0 not in grid:
        _enqueue(kernel, grid, tile, arguments, constants)


def _enqueue(
    kernel: Any, grid: tuple[int, ...], tile: Tile, arguments: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    global _launches
    _launches += 1
    device = arguments[0].device
    with _current(device):
        # On AMD Triton also compiles by the size of the storage.
        key = None if torch.version.hip else _key(kernel, tile, device, arguments, constants)
        compiled = _compiled.get(key)
        if compiled is not None:
            three = (*grid, 1, 1)
            compiled[three](*arguments, *constants.values())
            return
        compiled = kernel[grid](*arguments, **constants, num_warps=tile.warps, num_stages=tile.stages)
        # The interpreter gives none.
        if compiled is not None and key is not None:
            assert [*kernel.arg_names[len(arguments) :]] == [*constants], "constants: not in the kernel's order"
            if len(_compiled) >= _MOST_COMPILED:
                _compiled.clear()
            _compiled[key] = compiled


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which ``device`` is the current one."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _key(
    kernel: Any, tile: Tile, device: torch.device, arguments: tuple[Any, ...], constants: dict[str, Any]
) -> tuple[Any, ...]:
    """All that Triton compiles by, and more: every integer, the type and the alignment of every tensor.

    Of a float it is the type, which does not change.
    """
    of_arguments = [
        argument
        if type(argument) is int or argument is None
        else None
        if type(argument) is float
        else (argument.dtype, argument.data_ptr() & 15)
        for argument in arguments
    ]
    # The function itself, as a kernel has a hash of all its code.
    return kernel.fn, tile.warps, tile.stages, device.index, *of_arguments, *constants.values()
