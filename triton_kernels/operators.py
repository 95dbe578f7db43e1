"""The operators in a dispatcher namespace of their own; kernels are loaded by the first call."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from indeed_ext.schemas import SCHEMAS

NAMESPACE = "indeed_ext_triton"


def is_interpreted() -> bool:
    """Whether kernels run under Triton's interpreter, on CPU tensors.

    Triton reads the variable as kernels are defined, so it must be set before Triton is imported.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


def _implementation(name: str) -> Callable[..., Any]:
    """The function of that name; a backward stands in the module of its forward."""

    @functools.cache
    def load() -> Callable[..., Any]:
        module = importlib.import_module(f"{__package__}.{name.removesuffix('_backward')}")
        return getattr(module, name)

    def call(*args: Any) -> Any:
        return load()(*args)

    call.__name__ = name
    return call


def implement(library: torch.library.Library) -> str:
    """Implement the operators defined in ``library``, for the device type that is returned.

    That is the CPU under the interpreter, else CUDA (or HIP).
    """
    device_type = "cpu" if is_interpreted() else "cuda"
    for name in SCHEMAS:
        library.impl(name, _implementation(name), device_type.upper())
    return device_type
