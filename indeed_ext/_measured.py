"""The faster backend of a GPU, where ``python -m benchmarks.tune`` has measured it there."""

from __future__ import annotations

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch


def path() -> Path:
    """Where the measurements of this user are."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says the XDG specification.
    folder = cache if os.path.isabs(cache) else os.path.expanduser("~/.cache")
    return Path(folder, "indeed_ext", "backend.json")


def key(index: int | None = None) -> str:
    """What a measurement holds for: the GPU (torch's current one if None), torch and this package."""
    from . import __version__

    capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
    return f"{torch.cuda.get_device_name(index)}, {capability}, torch {torch.__version__}, indeed_ext {__version__}"


@functools.cache
def read() -> dict[str, dict[str, Any]]:
    """All measurements by :func:`key`, read once: ``backend`` and ``cuda_over_triton``, a ratio of times."""
    if not os.path.exists(path()):
        return {}
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
        for entry in found.values():
            if entry["backend"] not in ("cuda", "triton") or not entry["cuda_over_triton"] > 0:
                raise ValueError(f"unexpected {entry}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        advice = "python -m benchmarks.tune writes it anew"
        warnings.warn(f"indeed_ext ignores {path()}: {error!r} ({advice})", RuntimeWarning, stacklevel=2)
        return {}
    return dict(found)
