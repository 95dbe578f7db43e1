"""Which implementations exist here, why any is missing, and which one serves a call.

A backend is a dispatcher namespace that holds the operators of :mod:`indeed_ext.operators`:
the compiled extension registers ``torch.ops.indeed_ext`` for CPU and CUDA tensors. The
``"reference"`` backend has no operators; it is :mod:`indeed_ext.reference`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from . import _extension, _triton

ENVIRONMENT_VARIABLE = "INDEED_BACKEND"

#: os.environ writes through to C, where looking up a variable takes a tenth of the time.
_lookup: Callable[[str], str | None] = getattr(_extension.LIBRARY, "environment_variable", os.environ.get)


def _environment(name: str) -> str | None:
    return os.environ.get(name) if torch.compiler.is_compiling() else _lookup(name)


#: Backend name to (operator namespace, device type it serves).
_namespaces: dict[str, tuple[str, str]] = {}


def register_backend(name: str, namespace: str, device_type: str) -> None:
    """Make the operators of ``torch.ops.<namespace>`` available as backend ``name`` for tensors on ``device_type``."""
    _namespaces[name] = (namespace, device_type)
    _served_unasked.cache_clear()


def missing_reasons() -> dict[str, str]:
    """Every known backend that cannot be used here, with the reason in one sentence."""
    reasons = {}
    if "cpu" not in _namespaces:
        reasons["cpu"] = _extension.EXTENSION_ERROR or "the compiled extension holds no CPU operators"
    if "cuda" not in _namespaces:
        reasons["cuda"] = _extension.EXTENSION_ERROR or str(_extension.BUILD_INFO.get("cuda_missing"))
    elif not torch.cuda.is_available():
        reasons["cuda"] = "torch finds no usable GPU"
    if "triton" not in _namespaces:
        reasons["triton"] = _triton.TRITON_ERROR or "its operators are not registered"
    elif _namespaces["triton"][1] == "cuda" and not torch.cuda.is_available():
        reasons["triton"] = "torch finds no usable GPU (TRITON_INTERPRET=1 runs the kernels slowly on the CPU)"
    return reasons


def available_backends() -> list[str]:
    """Names that ``backend=`` accepts on this installation, fastest first, ``"reference"`` last."""
    # Asked anew every time: whether there is a GPU is not a matter of when the package was imported.
    usable = [name for name, (_, device) in _namespaces.items() if device != "cuda" or torch.cuda.is_available()]
    return [*usable, "reference"]


class LossSize(NamedTuple):
    """What the choice between the GPU backends of the fused loss depends on."""

    rows: int
    width: int
    classes: int
    dtype: torch.dtype


#: float32 logits up to this many are bound by launches and bytes, larger ones by products.
_MOST_SMALL_LOGITS = 1 << 18
#: Rows up to which a sample's rows are found by Triton's kernels in a time that does not count.
_MOST_LINKED_ROWS = 1 << 14
#: Features from which on Triton's kernels multiply in the type of the features.
_LEAST_WIDTH = 16


def preferred_on_a_gpu(size: LossSize | None) -> str:
    """``"cuda"`` or ``"triton"``, where both are there, by bytes moved and launches; docs/gpu.md has the reasons.

    ``size`` is None for the operators other than the fused loss: they move the same bytes in both, and the compiled
    kernels need no compilation at the first call.
    """
    if size is None or size.rows > _MOST_LINKED_ROWS or size.width < _LEAST_WIDTH:
        return "cuda"
    if size.dtype in (torch.bfloat16, torch.float16):
        return "triton"
    if size.dtype == torch.float32 and size.rows * size.classes <= _MOST_SMALL_LOGITS:
        return "triton"
    return "cuda"


def select(backend: str | None, device: torch.device, size: Callable[[], LossSize] | None = None) -> Any | None:
    """The operators serving tensors on ``device``; None for the reference.

    ``size``: of the fused loss, where that is what is to be served; asked for only where it decides.

    Raises:
        ValueError: an unknown or unavailable backend, or one for another device.
    """
    source = "backend"
    if backend is None:
        backend = _environment(ENVIRONMENT_VARIABLE) or None
        source = ENVIRONMENT_VARIABLE
    if backend is None:
        return _default_operators(device, size)
    if backend == "reference":
        return None
    if backend not in available_backends():
        reason = missing_reasons().get(backend) if isinstance(backend, str) else None
        detail = f"{backend!r} is missing here: {reason}" if reason else f"got {backend!r}"
        raise ValueError(f"{source}: expected one of {available_backends()}, {detail}")
    namespace, device_type = _namespaces[backend]
    if device.type != device_type:
        raise ValueError(f"{source}: {backend!r} works on {device_type} tensors, got tensors on {device}")
    return getattr(torch.ops, namespace)


def _default_operators(device: torch.device, size: Callable[[], LossSize] | None) -> Any | None:
    served = _served_unasked(device)
    if len(served) > 1:
        return served[preferred_on_a_gpu(size() if size else None)]
    return next(iter(served.values()), None)


@lru_cache
def _served_unasked(device: torch.device) -> dict[str, Any]:
    """Operators by backend name; on a CPU Triton's kernels are only interpreted: not unless they are asked for."""
    names = ("cpu",) if device.type == "cpu" else ("cuda", "triton")
    served = {name: _namespaces[name] for name in names if name in _namespaces}
    return {name: getattr(torch.ops, namespace) for name, (namespace, kind) in served.items() if kind == device.type}
