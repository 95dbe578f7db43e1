"""Which compiled CUDA code runs on a GPU, by its compute capability and the architectures of the build."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: GPUs built into a Jetson board: they do not run machine code of another minor version.
_INTEGRATED = {(8, 7), (10, 1)}


def serving_code(capability: tuple[int, int], archs: Sequence[str]) -> str | None:
    """What of a build for ``archs`` runs on a GPU of this compute capability.

    Args:
        capability: such as ``(9, 0)``.
        archs: as TORCH_CUDA_ARCH_LIST has them, such as ``["8.0", "9.0a", "12.0+PTX"]``.

    Returns:
        ``"sm_90"`` for machine code; ``"compute_90"`` for PTX, which the driver compiles when a kernel is first called;
        None if nothing runs. The nearest machine code comes before the nearest PTX.
    """
    machine_code, portable = [], []
    for arch in archs:
        major, minor, suffix, ptx = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", arch).groups()  # type: ignore[union-attr]
        built = int(major), int(minor)
        same = built == capability
        # Code of a family (f) runs on newer members, that of one architecture (a) nowhere else, be it PTX or not.
        of_major = built[0] == capability[0] and built[1] <= capability[1]
        if same or (of_major and suffix != "a" and capability not in _INTEGRATED):
            machine_code.append((built, suffix))
        if ptx and (same or (suffix == "" and built <= capability) or (suffix == "f" and of_major)):
            portable.append((built, suffix))
    for kind, found in (("sm", machine_code), ("compute", portable)):
        if found:
            (major, minor), suffix = max(found)
            return f"{kind}_{major}{minor}{suffix}"
    return None


def describe(name: str, capability: tuple[int, int], archs: Sequence[str]) -> str:
    """What of a build for ``archs`` the GPU ``name`` runs, or that it runs nothing and what to build; one sentence."""
    wanted, code = ".".join(map(str, capability)), serving_code(capability, archs)
    if code is None:
        advice = f"install again with TORCH_CUDA_ARCH_LIST={wanted}"
        runs = f"none of the CUDA kernels, which were built for {', '.join(archs)} ({advice})"
    elif code.startswith("sm_"):
        runs = f"machine code of {code}"
    else:
        runs = f"PTX of {code}, which the driver compiles at the first call"
    return f"{name}, compute capability {wanted}, runs {runs}"
