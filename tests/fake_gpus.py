"""Makes the package see GPUs that are not there; nothing can run on them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from indeed_ext import _extension, _measured, backends

H100, A6000, T4 = ("H100", (9, 0)), ("A6000", (8, 6)), ("T4", (7, 5))


def install(
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    gpus: Sequence[tuple[str, tuple[int, int]]],
    archs: Sequence[str] = ("8.0", "9.0+PTX"),
) -> None:
    """These GPUs (name, compute capability), a build for ``archs``, and ``cache`` as the user's cache folder."""

    def index(gpu: int | None) -> int:
        return 0 if gpu is None else gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu=None: gpus[index(gpu)][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu=None: gpus[index(gpu)][1])
    build = {**_extension.BUILD_INFO, "cuda": "13.0", "cuda_archs": list(archs), "cuda_missing": None}
    monkeypatch.setattr(_extension, "BUILD_INFO", build)
    monkeypatch.setattr(backends, "_gpu_facts", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(_measured, "read", functools.cache(_measured.read.__wrapped__))
