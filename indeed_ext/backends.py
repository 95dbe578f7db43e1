"""Which implementations exist here, why any is missing, and which one serves a call.

A backend is a dispatcher namespace that holds the operators of :mod:`indeed_ext.schemas`:
the compiled extension implements ``torch.ops.indeed_ext`` for CPU and CUDA tensors. The
``"reference"`` backend has no operators; see :mod:`indeed_ext.reference_backend`.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from . import _extension, _triton

ENVIRONMENT_VARIABLE = "INDEED_BACKEND"

#: Backend name to (operator namespace, device type it serves), the preferred ones first.
_namespaces: dict[str, tuple[str, str]] = {}


def register_backend(name: str, namespace: str, device_type: str) -> None:
    """Make the operators of ``torch.ops.<namespace>`` available as backend ``name`` for tensors on ``device_type``."""
    _namespaces[name] = (namespace, device_type)


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
    """Names that ``backend=`` accepts on this installation, preferred ones first, ``"reference"`` last."""
    # Asked anew every time: whether there is a GPU is not a matter of when the package was imported.
    usable = [name for name, (_, device) in _namespaces.items() if device != "cuda" or torch.cuda.is_available()]
    return [*usable, "reference"]


def select(backend: str | None, device: torch.device) -> Any | None:
    """The operators serving tensors on ``device``; None for the reference.

    Raises:
        ValueError: an unknown or unavailable backend, or one for another device.
    """
    source = "backend"
    if backend is None:
        backend, source = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if backend is None:
        return _default_operators(device.type)
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


def _default_operators(device_type: str) -> Any | None:
    """On a GPU the compiled kernels before Triton's; on a CPU Triton's are only interpreted, never by default."""
    for name in ("cpu",) if device_type == "cpu" else ("cuda", "triton"):
        if name in _namespaces and _namespaces[name][1] == device_type:
            return getattr(torch.ops, _namespaces[name][0])
    return None
