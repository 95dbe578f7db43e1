"""What this installation consists of, for people and for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from . import __version__, _extension, backends


def _triton_version() -> str:
    for distribution in ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none usable by torch"


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
        "CUDA": cuda,
    }


def _backend_lines() -> dict[str, str]:
    found = dict.fromkeys(backends.available_backends(), "available")
    return found | {name: f"missing: {reason}" for name, reason in backends.missing_reasons().items()}


def render() -> str:
    """Versions, the build of the compiled extension, and each backend with the reason if it is missing."""
    sections = {
        f"indeed_ext {__version__}": {
            "python": f"{platform.python_version()} on {platform.platform()}",
            "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
            "triton": _triton_version(),
            "GPU": _gpu(),
        },
        "compiled extension": _build_lines(),
        "backends": _backend_lines(),
    }
    lines = []
    for title, entries in sections.items():
        lines += [title, *(f"  {name:<12}{value}" for name, value in entries.items())]
    return "\n".join(lines)
