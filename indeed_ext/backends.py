"""Which implementations exist here, why any is missing, and which one serves a call.

A backend is a dispatcher namespace that holds the operators of :mod:`indeed_ext.schemas`:
the compiled extension implements ``torch.ops.indeed_ext`` for CPU and CUDA tensors. The
``"reference"`` backend has no operators; see :mod:`indeed_ext.reference_backend`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from . import _architectures, _extension, _measured, _triton

ENVIRONMENT_VARIABLE = "INDEED_BACKEND"

F = TypeVar("F", bound=Callable[..., object])

#: Backend name to (operator namespace, device type it serves), the preferred ones first.
_namespaces: dict[str, tuple[str, str]] = {}

#: What was found out about each GPU, by the function that did and the index: nothing of it changes in a process.
_gpu_facts: dict[tuple[str, int], str | None] = {}


def register_backend(name: str, namespace: str, device_type: str) -> None:
    """Make the operators of ``torch.ops.<namespace>`` available as backend ``name`` for tensors on ``device_type``."""
    _namespaces[name] = (namespace, device_type)


def missing_reasons() -> dict[str, str]:
    """Every known backend that cannot be used here, with the reason in one sentence.

    Where there are compiled CUDA kernels and a GPU, this initialises CUDA, to see which architecture that is.
    """
    absent = {
        "cpu": _extension.EXTENSION_ERROR or "the compiled extension holds no CPU operators",
        "cuda": _extension.EXTENSION_ERROR or str(_extension.BUILD_INFO.get("cuda_missing")),
        "triton": _triton.TRITON_ERROR or "its operators are not registered",
    }
    reasons = {name: _reason_unusable(name) if name in _namespaces else reason for name, reason in absent.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def available_backends() -> list[str]:
    """Names that ``backend=`` accepts on this installation, preferred ones first, ``"reference"`` last.

    Where there are compiled CUDA kernels and a GPU, this initialises CUDA, to see which architecture that is.
    """
    # Asked anew every time: whether there is a GPU is not a matter of when the package was imported.
    return [*(name for name in _namespaces if not _reason_unusable(name)), "reference"]


def _constant(function: F) -> F:
    """Let torch.compile take the function's result as a constant instead of tracing it.

    As ``torch.compiler.assume_constant_result`` does, which imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _reason_unusable(name: str) -> str | None:
    """Why a registered backend serves no device that is here."""
    if _namespaces[name][1] != "cuda":
        return None
    if not torch.cuda.is_available():
        hint = " (TRITON_INTERPRET=1 runs the kernels slowly on the CPU)" if name == "triton" else ""
        return f"torch finds no usable GPU{hint}"
    if name == "cuda" and all(reason_unserved(index) for index in range(torch.cuda.device_count())):
        return reason_unserved(0)
    return None


def _of_a_gpu(find: Callable[[int], str | None]) -> Callable[[int | None], str | None]:
    """``find``, called once for each GPU, given by its index or as torch's current one; None where it cannot be asked.

    That is in a forked process, and for tensors that only pretend to be on a GPU.
    """

    @_constant
    @functools.wraps(find)
    def cached(index: int | None) -> str | None:
        try:
            if index is None:
                index = torch.cuda.current_device()
            key = find.__name__, index
            if key not in _gpu_facts:
                _gpu_facts[key] = find(index)
        except (RuntimeError, AssertionError):
            return None
        return _gpu_facts[key]

    return cached


@_of_a_gpu
def reason_unserved(index: int) -> str | None:
    """Why no compiled CUDA code runs on a GPU, in one sentence; None where some does."""
    capability, archs = torch.cuda.get_device_capability(index), _extension.BUILD_INFO.get("cuda_archs", [])
    if _architectures.serving_code(capability, archs):
        return None
    return _architectures.describe(torch.cuda.get_device_name(index), capability, archs)


@_of_a_gpu
def measured_backend(index: int) -> str | None:
    """The backend that a measurement on such a GPU found to be the faster one; None where there is none."""
    return _measured.read().get(_measured.key(index), {}).get("backend")


def select(backend: str | None, device: torch.device) -> Any | None:
    """The operators serving tensors on ``device``; None for the reference.

    Raises:
        ValueError: an unknown or unavailable backend, or one for another device.
    """
    source = "backend"
    if backend is None:
        backend, source = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if backend is None:
        backend = default_backend(device)
    elif backend != "reference":
        _require_usable(backend, source, device)
    return None if backend == "reference" else getattr(torch.ops, _namespaces[backend][0])


def _require_usable(backend: str, source: str, device: torch.device) -> None:
    if not isinstance(backend, str) or backend not in _namespaces or _reason_unusable(backend):
        reason = missing_reasons().get(backend) if isinstance(backend, str) else None
        detail = f"{backend!r} is missing here: {reason}" if reason else f"got {backend!r}"
        raise ValueError(f"{source}: expected one of {available_backends()}, {detail}")
    device_type = _namespaces[backend][1]
    if device.type != device_type:
        raise ValueError(f"{source}: {backend!r} works on {device_type} tensors, got tensors on {device}")
    if backend == "cuda" and (reason := reason_unserved(device.index)):
        raise ValueError(f"{source}: {backend!r} does not serve {device}: {reason}")


def default_backend(device: torch.device) -> str:
    """The backend of tensors on ``device`` where nobody chooses one.

    On a GPU the compiled kernels come before Triton's, unless it was measured that Triton's are faster there. On a CPU
    Triton's are only interpreted, never by default.
    """
    order: tuple[str, ...] = ("cpu",)
    if device.type != "cpu":
        order = ("triton", "cuda") if measured_backend(device.index) == "triton" else ("cuda", "triton")
    for name in order:
        if name not in _namespaces or _namespaces[name][1] != device.type:
            continue
        if name != "cuda" or reason_unserved(device.index) is None:
            return name
    return "reference"
