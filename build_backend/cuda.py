"""Finding a CUDA toolkit that can really compile for the torch at hand."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .environment import BuildError, Torch

#: Compiled for these unless TORCH_CUDA_ARCH_LIST says otherwise; "+PTX" lets newer GPUs run them too.
DEFAULT_ARCHS = "8.0;9.0+PTX"


@dataclass(frozen=True)
class Toolkit:
    """A usable CUDA toolkit."""

    root: Path
    version: tuple[int, int]

    @property
    def nvcc(self) -> Path:
        return self.root / "bin" / "nvcc"

    @property
    def library_dir(self) -> Path:
        return next((path for path in (self.root / "lib64", self.root / "lib") if path.is_dir()), self.root / "lib64")


def inspect_toolkit(root: Path) -> Toolkit | str:
    """The toolkit at ``root``, or what it lacks.

    A prefix such as /usr/local may hold an ``nvcc`` that only calls another one; headers and
    the real compiler (cicc) next to it tell a toolkit from such a wrapper.
    """
    for part in ("bin/nvcc", "include/cuda_runtime.h", "include/cuda_runtime_api.h", "nvvm/bin/cicc"):
        if not (root / part).is_file():
            return f"{root} has no {part}"
    header = (root / "include/cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    version = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header)
    if version is None:
        return f"{root}/include/cuda_runtime_api.h names no version"
    return Toolkit(root, (int(version[1]) // 1000, int(version[1]) % 1000 // 10))


def candidate_roots(environ: Mapping[str, str]) -> list[Path]:
    """Where a toolkit may be: the environment's word first, then the nvcc on the path, then the usual places."""
    roots = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    if nvcc := shutil.which("nvcc", path=environ.get("PATH")):
        roots.append(Path(nvcc).resolve().parent.parent)
    roots.append(Path("/usr/local/cuda"))
    by_version = sorted(Path("/usr/local").glob("cuda-*"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    return list(dict.fromkeys(roots + by_version[::-1]))


def find_toolkit(torch: Torch, roots: Iterable[Path]) -> Toolkit | str:
    """The first usable toolkit of torch's CUDA major version, or why there is none."""
    if torch.cuda is None:
        return f"torch {torch.version} is built without CUDA"
    rejected = []
    for root in roots:
        toolkit = inspect_toolkit(root)
        if isinstance(toolkit, Toolkit) and toolkit.version[0] == int(torch.cuda.split(".")[0]):
            return toolkit
        if isinstance(toolkit, Toolkit):
            toolkit = f"{root} is CUDA {toolkit.version[0]}.{toolkit.version[1]}, torch wants {torch.cuda}"
        rejected.append(toolkit)
    return "no usable CUDA toolkit: " + "; ".join(rejected)


def choose_toolkit(torch: Torch, has_sources: bool, environ: Mapping[str, str] = os.environ) -> Toolkit | str:
    """The toolkit to build the CUDA kernels with, or the reason to build none; INDEED_WITH_CUDA=0/1 forces it."""
    wish = environ.get("INDEED_WITH_CUDA", "")
    if wish not in ("", "0", "1"):
        raise BuildError(f"INDEED_WITH_CUDA: expected 0 or 1, got {wish!r}")
    if wish == "0":
        return "INDEED_WITH_CUDA=0 was set when the package was installed"
    found = find_toolkit(torch, candidate_roots(environ)) if has_sources else "no CUDA kernels in this version"
    if wish == "1" and isinstance(found, str):
        raise BuildError(f"INDEED_WITH_CUDA=1, but {found}")
    return found


def cublas_include(torch: Torch, toolkit: Toolkit) -> Path | None:
    """The folder of ``cublas_v2.h``: the toolkit's, else that of the cuBLAS that pip installed for torch."""
    beside_torch = (torch.root.parent / "nvidia").glob("*/include")
    found = (path for path in (toolkit.root / "include", *sorted(beside_torch)) if (path / "cublas_v2.h").is_file())
    return next(found, None)


def arch_list(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Compute capabilities to build for, such as ``["8.0", "9.0+PTX"]``."""
    return re.split(r"[;,\s]+", (environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHS).strip())


def arch_flags(archs: Iterable[str]) -> list[str]:
    """nvcc's flags for ``archs``."""
    flags = []
    for arch in archs:
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", arch)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected entries such as 8.0 or 9.0+PTX, got {arch!r}")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
