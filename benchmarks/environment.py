"""The machine and the versions of a measurement: columns of every CSV row, and the head of the report."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import torch

import indeed_ext
from indeed_ext import _extension


def describe(device: str) -> dict[str, str]:
    """Device, versions and time, without anything that names the machine or its owner."""
    return {
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "indeed_ext": indeed_ext.__version__,
        "commit": (_extension.BUILD_INFO.get("commit") or "unknown")[:12],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "measured": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
