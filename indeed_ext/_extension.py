"""Loading the compiled extension, or saying in one sentence why it is not there.

Importing this module never raises: without the extension the package goes on through the
other backends, and :data:`EXTENSION_ERROR` holds the reason.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import struct
import sys
import sysconfig
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_PACKAGE = Path(__file__).parent


def is_loaded() -> bool:
    """Whether the compiled extension is loaded."""
    return EXTENSION_ERROR is None


def _read_build_info() -> dict[str, Any]:
    """What the build wrote beside the library, so that it can be told even of one that does not load."""
    try:
        return dict(json.loads((_PACKAGE / "_build_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _load() -> tuple[str | None, dict[str, Any], ModuleType | None]:
    """The reason the extension is missing (None when it loaded), its build information and the module itself."""
    info = _read_build_info()
    if not info:
        advice = "`pip install .` and start Python outside the source tree, or `pip install -e .`"
        return f"the compiled extension was never built in {_PACKAGE} ({advice})", info, None
    if info.get("missing"):
        return f"the compiled extension was left out: {info['missing']}", info, None
    try:
        _require_torch(info.get("torch_target", "0"))
        library = _import_library("_C")
        return None, dict(json.loads(library.build_info())), library
    except Exception as error:  # whatever goes wrong in a foreign binary, the package goes on
        return f"the compiled extension cannot be loaded: {_mismatch(info)} ({_one_line(error)})", info, None


def _load_autograd() -> tuple[str | None, ModuleType | None]:
    """The reason the nodes of autograd in C++ are missing (None when they loaded), and the module that holds them."""
    if EXTENSION_ERROR is not None:
        return "the compiled extension is missing", None
    if BUILD_INFO["torch"] != torch.__version__:  # of what it needs of torch nothing is stable
        return f"it was built for torch {BUILD_INFO['torch']}, and this is {torch.__version__}", None
    try:
        return None, _import_library("_autograd")
    except Exception as error:  # whatever goes wrong in it, the node in Python serves, and `indeed info` says why
        return _one_line(error), None


def _import_library(name: str) -> ModuleType:
    # From this very folder: a plain import could find the library of another, editable install.
    spec = PathFinder.find_spec(f"{__package__}.{name}", [str(_PACKAGE)])
    if spec is None or spec.loader is None or spec.origin is None:
        raise ImportError("it holds no library for this interpreter")
    _require_whole(Path(spec.origin))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    return module


def _require_whole(library: Path) -> None:
    # Mapping a truncated library would kill the process. An ELF file ends with its section table.
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) == 64 and header.startswith(b"\x7fELF\x02\x01"):
        (table,) = struct.unpack_from("<Q", header, 0x28)
        entry_size, entries = struct.unpack_from("<HH", header, 0x3A)
        if library.stat().st_size < table + entry_size * entries:
            raise ImportError("the library file is incomplete")


def _require_torch(minimum: str) -> None:
    # Asked before loading, as registering operators with a torch that lacks the functions may abort.
    if _numbers(torch.__version__) < _numbers(minimum):
        raise ImportError(f"it needs torch {minimum} or newer")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _mismatch(info: dict[str, Any]) -> str:
    built = f"torch {info.get('torch')}, Python {info.get('python')} on {info.get('platform')}"
    running = f"torch {torch.__version__}, Python {platform.python_version()} on {sysconfig.get_platform()}"
    return f"it was built for {built}, and this is {running}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


#: Why the compiled extension is missing, in one sentence; None when it is loaded.
EXTENSION_ERROR: str | None
#: Versions, compiler, commit and CUDA architectures of the build; empty if nothing was built.
BUILD_INFO: dict[str, Any]
#: The module ``indeed_ext._C``.
LIBRARY: ModuleType | None
EXTENSION_ERROR, BUILD_INFO, LIBRARY = _load()
#: Why eager calls take the node of autograd that is written in Python; None where they take the one in C++.
AUTOGRAD_ERROR: str | None
#: The module ``indeed_ext._autograd``.
AUTOGRAD: ModuleType | None
AUTOGRAD_ERROR, AUTOGRAD = _load_autograd()

if EXTENSION_ERROR is not None:
    warnings.warn(
        f"indeed_ext works without its fast CPU and CUDA kernels, as {EXTENSION_ERROR}", RuntimeWarning, stacklevel=3
    )
