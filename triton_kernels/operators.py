"""The operators in the dispatcher namespace ``indeed_ext_triton``; kernels are loaded by the first call.

The schemas are those of ``csrc/operators.cpp``, as results and gradients of both are described
by :mod:`indeed_ext.operators`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from indeed_ext._triton import NAMESPACE

#: Operator to (module of this package, schema). The function in the module has the operator's name.
_OPERATORS = {
    "pack_labels": ("pack_labels", "(Tensor labels) -> (Tensor, Tensor)"),
    "mine_pairs": ("mine_pairs", "(Tensor present, Tensor seed, int strategy) -> Tensor"),
    "identical_disparate": (
        "identical_disparate",
        "(Tensor features, Tensor pairs, int norm, float eps) -> (Tensor, Tensor)",
    ),
    "identical_disparate_backward": (
        "identical_disparate",
        "(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs, int norm, float eps) -> Tensor",
    ),
    "six_way_bce": (
        "six_way_bce",
        "(Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present, Tensor? known, "
        "Tensor pairs, Tensor lam, Tensor? pos_weight, int reduction, int blocks) -> (Tensor, Tensor)",
    ),
    "six_way_bce_backward": (
        "six_way_bce",
        "(Tensor grad_loss, Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present, "
        "Tensor? known, Tensor pairs, Tensor lam, Tensor? pos_weight, int reduction, int blocks) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    "fused_indeed_loss": (
        "fused_loss",
        "(Tensor features, Tensor weight, Tensor? bias, Tensor present, Tensor? known, Tensor pairs, Tensor lam, "
        "Tensor? pos_weight, Tensor? row_weight, int norm, float eps, int reduction, int blocks, int gradients) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    "indeed_loss": (
        "fused_loss",
        "(Tensor features, Tensor weight, Tensor? bias, Tensor labels, Tensor? known, bool packed, Tensor? pairs, "
        "Tensor? seed, Tensor lam, Tensor? pos_weight, int strategy, int norm, float eps, int reduction, int blocks, "
        "int gradients) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
}


def is_interpreted() -> bool:
    """Whether kernels run under Triton's interpreter, on CPU tensors.

    Triton reads the variable as kernels are defined, so it must be set before Triton is imported.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


def _implementation(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)(*args)

    call.__name__ = name
    return call


def register() -> str:
    """Define the operators for the device type that is returned: the CPU under the interpreter, else CUDA (or HIP)."""
    device_type = "cpu" if is_interpreted() else "cuda"
    definitions = torch.library.Library(NAMESPACE, "FRAGMENT")
    for name, (module, schema) in _OPERATORS.items():
        definitions.define(name + schema)
        definitions.impl(name, _implementation(module, name), device_type.upper())
    _libraries.append(definitions)
    return device_type


#: A library takes its operators along when it is collected.
_libraries: list[torch.library.Library] = []
