"""What this installation consists of, for people and for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from . import __version__, _architectures, _extension, _measured, backends


def _triton_version() -> str:
    for distribution in ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _gpu_lines() -> dict[str, str]:
    """Every GPU, and what of the compiled kernels it runs."""
    if not torch.cuda.is_available():
        return {"GPU": "none usable by torch"}
    return {f"GPU {index}": _gpu(index) for index in range(torch.cuda.device_count())}


def _gpu(index: int) -> str:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if not _extension.BUILD_INFO.get("cuda"):
        return f"{name}, compute capability {'.'.join(map(str, capability))}"
    return _architectures.describe(name, capability, _extension.BUILD_INFO["cuda_archs"])


def _build_lines() -> dict[str, str]:
    info = _extension.BUILD_INFO
    if not info.get("torch"):
        return {"extension": _extension.EXTENSION_ERROR or "no build information"}
    if info["cuda"]:
        cuda = f"toolkit {info['cuda']}, architectures {' '.join(info['cuda_archs'])}"
    else:
        cuda = f"none: {info['cuda_missing']}"
    return {
        "extension": _extension.EXTENSION_ERROR or "loaded",
        "commit": info["commit"] or "unknown (not built from a git checkout)",
        "built with": f"torch {info['torch']}, Python {info['python']}, {info['compiler']}, on {info['platform']}",
        "runs with": f"torch {info['torch_target']} and newer",
        "CPU kernels": _cpu_kernels(),
        "CUDA": cuda,
        "autograd": f"in Python: {reason}" if (reason := _extension.AUTOGRAD_ERROR) else "in C++",
    }


def _cpu_kernels() -> str:
    if _extension.LIBRARY is None:
        return "none"
    used, variants = _extension.LIBRARY.kernel_variant(), _extension.LIBRARY.kernel_variants()
    return f"{used}, of {', '.join(variants)} that run here"


def _backend_lines() -> dict[str, str]:
    found = dict.fromkeys(backends.available_backends(), "available")
    return found | {name: f"missing: {reason}" for name, reason in backends.missing_reasons().items()}


def _choice_lines() -> dict[str, str]:
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    return {str(device): _choice(device) for device in map(torch.device, ("cpu", *(f"cuda:{i}" for i in gpus)))}


def _choice(device: torch.device) -> str:
    """The backend of a device where a call names none, and why."""
    if asked := os.environ.get(backends.ENVIRONMENT_VARIABLE):
        try:
            backends.select(None, device)
        except ValueError as error:
            return f"none: {error}"
        return f"{asked}, as {backends.ENVIRONMENT_VARIABLE} says"
    name = backends.default_backend(device)
    if device.type == "cpu" or not {"cuda", "triton"} <= set(backends.available_backends()):
        return f"{name}, as no kernels serve it" if name == "reference" else f"{name}, which alone has kernels for it"
    if reason := backends.reason_unserved(device.index):
        return f"{name}, as {reason}"
    if entry := _measured.read().get(_measured.key(device.index)):
        ratio = f"{entry['cuda_over_triton']:.2f}"
        return f"{name}, as cuda took {ratio} times as long as triton, measured here ({_measured.path()})"
    return f"{name}, as usual; not measured on this GPU (python -m benchmarks.tune)"


def render() -> str:
    """Versions, the build, the GPUs and what serves them, and each backend with the reason if it is missing."""
    sections = {
        f"indeed_ext {__version__}": {
            "python": f"{platform.python_version()} on {platform.platform()}",
            "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
            "triton": _triton_version(),
            **_gpu_lines(),
        },
        "compiled extension": _build_lines(),
        "backends": _backend_lines(),
        "chosen where a call names none": _choice_lines(),
    }
    lines = []
    for title, entries in sections.items():
        lines += [title, *(f"  {name:<12}{value}" for name, value in entries.items())]
    return "\n".join(lines)
