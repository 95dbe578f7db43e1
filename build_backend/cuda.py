"""Finding a CUDA toolkit that can really compile for the torch at hand, and what to compile with it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .environment import BuildError, Torch, output

#: Compiled for those of these that the toolkit knows, unless TORCH_CUDA_ARCH_LIST says otherwise. Machine code runs on
#: its major version only. PTX of 10.0 serves 11.0, the newest PTX whatever follows; it takes no time to speak of.
DEFAULT_ARCHS = ("8.0", "9.0", "10.0+PTX", "12.0+PTX")

#: Kind of compiler, the macro with its version, and how nvcc's header refuses those that are too new.
#: clang comes first, as it claims to be some gcc as well.
HOST_COMPILERS = (("clang", "__clang_major__", r"__clang_major__ >= (\d+)"), ("gcc", "__GNUC__", r"__GNUC__ > (\d+)"))


@dataclass(frozen=True)
class Toolkit:
    """A usable CUDA toolkit."""

    root: Path
    version: tuple[int, int]
    #: Compute capabilities it compiles for, such as ``"9.0"``.
    archs: tuple[str, ...]

    @property
    def nvcc(self) -> Path:
        return self.root / "bin" / "nvcc"

    @property
    def name(self) -> str:
        return f"CUDA {self.version[0]}.{self.version[1]}"

    @property
    def library_dir(self) -> Path:
        return next((path for path in (self.root / "lib64", self.root / "lib") if path.is_dir()), self.root / "lib64")


@dataclass(frozen=True)
class CudaBuild:
    """What the CUDA sources are compiled with, and for."""

    toolkit: Toolkit
    host_compiler: str
    archs: list[str]
    cublas: Path  #: the folder of cuBLAS' headers


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
    archs = re.findall(r"^compute_(\d+)(\d)$", output([str(root / "bin/nvcc"), "--list-gpu-arch"]) or "", re.MULTILINE)
    if not archs:
        return f"{root}/bin/nvcc does not run here"
    return Toolkit(root, (int(version[1]) // 1000, int(version[1]) % 1000 // 10), tuple(map(".".join, archs)))


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
            toolkit = f"{root} is {toolkit.name}, torch wants {torch.cuda}"
        rejected.append(toolkit)
    return "no usable CUDA toolkit: " + "; ".join(rejected)


def choose_build(
    torch: Torch, has_sources: bool, compiler: list[str], environ: Mapping[str, str] = os.environ
) -> CudaBuild | str:
    """What to build the CUDA kernels with, or the reason to build none; INDEED_WITH_CUDA=0/1 forces it."""
    wish = environ.get("INDEED_WITH_CUDA", "")
    if wish not in ("", "0", "1"):
        raise BuildError(f"INDEED_WITH_CUDA: expected 0 or 1, got {wish!r}")
    if wish == "0":
        return "INDEED_WITH_CUDA=0 was set when the package was installed"
    found = find_build(torch, compiler, environ) if has_sources else "no CUDA kernels in this version"
    if wish == "1" and isinstance(found, str):
        raise BuildError(f"INDEED_WITH_CUDA=1, but {found}")
    return found


def cublas_include(torch: Torch, toolkit: Toolkit) -> Path | None:
    """The folder of ``cublas_v2.h``: the toolkit's, else that of the cuBLAS that pip installed for torch."""
    beside_torch = (torch.root.parent / "nvidia").glob("*/include")
    found = (path for path in (toolkit.root / "include", *sorted(beside_torch)) if (path / "cublas_v2.h").is_file())
    return next(found, None)


def find_build(torch: Torch, compiler: list[str], environ: Mapping[str, str]) -> CudaBuild | str:
    """The toolkit, with a compiler that its nvcc takes: NVCC_CCBIN before the one of the C++ sources."""
    toolkit = find_toolkit(torch, candidate_roots(environ))
    if isinstance(toolkit, str):
        return toolkit
    cublas = cublas_include(torch, toolkit)
    if cublas is None:
        return f"cublas_v2.h is neither in {toolkit.root / 'include'} nor beside torch"
    refusals = []
    for command in host_compilers(compiler, environ):
        refusal = host_refusal(toolkit, command, environ)
        if refusal is None:
            program = [word for word in command if not word.startswith("-")][-1]  # CXX may be "ccache g++ -m64"
            return CudaBuild(toolkit, program, arch_list(toolkit, environ), cublas)
        refusals.append(refusal)
    return "; ".join(dict.fromkeys(refusals))


def host_compilers(compiler: list[str], environ: Mapping[str, str]) -> list[list[str]]:
    """Commands of the compilers that nvcc may call, the preferred one first."""
    chosen = environ.get("NVCC_CCBIN")
    if not chosen:
        return [compiler]
    if Path(chosen).is_dir():  # nvcc takes a folder, too
        chosen = str(Path(chosen, "g++"))
    if shutil.which(chosen, path=environ.get("PATH")) is None:
        raise BuildError(f"NVCC_CCBIN={chosen!r}: there is no such program")
    return [[chosen], compiler]


def host_refusal(toolkit: Toolkit, command: list[str], environ: Mapping[str, str]) -> str | None:
    """Why this nvcc refuses a compiler, and which it would take; None where it does not."""
    if "-allow-unsupported-compiler" in environ.get("NVCC_PREPEND_FLAGS", "") + environ.get("NVCC_APPEND_FLAGS", ""):
        return None
    config = toolkit.root / "include/crt/host_config.h"
    header = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    macros = output([*command, "-dM", "-E", "-x", "c++", os.devnull]) or ""
    for kind, macro, limit in HOST_COMPILERS:
        version, bound = re.search(rf"#define {macro} (\d+)", macros), re.search(limit, header)
        if version is None:
            continue
        newest = int(bound[1]) - (">=" in bound[0]) if bound else None
        if newest is None or int(version[1]) <= newest:
            return None
        return (
            f"{' '.join(command)} is {kind} {version[1]} and nvcc of {toolkit.name} takes {kind} {newest} or older "
            "(set NVCC_CCBIN or CXX to such a one)"
        )
    return None


def arch_list(toolkit: Toolkit, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Compute capabilities to build for, such as ``["8.0", "9.0+PTX"]``.

    Raises:
        BuildError: an entry of TORCH_CUDA_ARCH_LIST that is none, or that the toolkit does not know.
    """
    wanted = re.findall(r"[^;,\s]+", environ.get("TORCH_CUDA_ARCH_LIST", ""))
    if not wanted:
        known = [arch for arch in DEFAULT_ARCHS if arch.removesuffix("+PTX") in toolkit.archs]
        return [*known[:-1], known[-1].removesuffix("+PTX") + "+PTX"]
    for arch in wanted:
        match = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", arch)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected entries such as 8.0 or 9.0+PTX, got {arch!r}")
        if match[1] not in toolkit.archs:
            known = ", ".join(toolkit.archs)
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: {toolkit.name} compiles for {known}, got {arch!r}")
    return list(dict.fromkeys(wanted))


def arch_flags(archs: Iterable[str]) -> list[str]:
    """nvcc's flags for ``archs``, as :func:`arch_list` gives them."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
