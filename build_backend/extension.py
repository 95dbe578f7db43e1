"""Compiling ``indeed_ext._C`` and ``indeed_ext._autograd`` with ninja, and the build information they travel with."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools.command.build_ext import build_ext

from .cuda import CudaBuild, arch_flags, choose_build
from .environment import MINIMUM_TORCH, BuildError, Torch, find_compiler, find_torch, output, reason_without_extension

ROOT = Path(__file__).resolve().parent.parent
INFO_NAME = "_build_info.json"

TARGET = f"-DTORCH_TARGET_VERSION=0x{MINIMUM_TORCH[0]:02x}{MINIMUM_TORCH[1]:02x}{0:012x}"
# No OpenMP runtime: threads come from torch's pool. No -march: sources hold their own ISA variants.
CXX_FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    *("-DNDEBUG", "-Wall", "-Wextra", TARGET),
]
NVCC_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", TARGET]


def extension() -> Extension:
    """The extension module: its host sources, CUDA sources for where they can be built, and those of ``_autograd``.

    That is a second library, see :func:`autograd_library`.
    """
    patterns = ("csrc/*.cpp", "csrc/autograd/*.cpp", "csrc/cpu/*.cpp", "csrc/cuda/*.cpp", "csrc/cuda/*.cu")
    sources = sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))
    headers = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/**/*.h"))
    return Extension("indeed_ext._C", sources, depends=headers)


def autograd_library(library: Path) -> Path:
    """Where the library of csrc/autograd goes: it sees torch's own C++ headers and fits one torch only."""
    return library.with_name(library.name.replace("_C.", "_autograd.", 1))


class BuildExtension(build_ext):
    """setuptools' build_ext with the compiling left to ninja."""

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        info: dict[str, Any] = {
            "version": self.distribution.get_version(),
            "commit": git_commit(),
            "python": platform.python_version(),
            "platform": sysconfig.get_platform(),
            "missing": reason_without_extension(),
        }
        library.parent.mkdir(parents=True, exist_ok=True)
        if info["missing"]:
            for path in (library, autograd_library(library)):
                path.unlink(missing_ok=True)  # of an earlier build in the same folder
            self.warn(f"indeed_ext is installed without its compiled extension: {info['missing']}")
        else:
            torch = find_torch()
            if torch is None or not torch.is_recent_enough:
                found = f"torch {torch.version}" if torch else "none"
                raise BuildError(f"building needs torch>={'.'.join(map(str, MINIMUM_TORCH))}, found {found}")
            self.compile(ext, library, torch, info)
        (library.parent / INFO_NAME).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    def compile(self, ext: Extension, library: Path, torch: Torch, info: dict[str, Any]) -> None:
        """Compile and link ``library``, completing ``info`` with what it was built with."""
        compiler = find_compiler()
        assert compiler is not None
        cuda_sources = [source for source in ext.sources if source.startswith("csrc/cuda/")]
        choice = choose_build(torch, bool(cuda_sources), compiler)
        cuda = choice if isinstance(choice, CudaBuild) else None
        info |= {
            "torch": torch.version,
            "torch_target": ".".join(map(str, MINIMUM_TORCH)),
            "compiler": first_line([*compiler, "--version"]),
            "cuda": ".".join(map(str, cuda.toolkit.version)) if cuda else None,
            "cuda_archs": cuda.archs if cuda else [],
            "cuda_missing": None if cuda else choice,
        }
        sources = ext.sources if cuda else [source for source in ext.sources if source not in cuda_sources]
        # Objects of another torch are never taken for this one's.
        objects = Path(self.build_temp).resolve() / f"torch-{torch.version}{'-cuda' if cuda else ''}"
        objects.mkdir(parents=True, exist_ok=True)
        write_if_changed(objects / "build_info.h", f'#define INDEED_BUILD_INFO R"json({json.dumps(info)})json"\n')
        build_file = objects / "build.ninja"
        build_file.write_text(ninja_text(compiler, torch, cuda, sources, objects, library), encoding="utf-8")
        kernels = f"{cuda.toolkit.name} for {' '.join(cuda.archs)}" if cuda else f"without CUDA ({choice})"
        print(f"indeed_ext: {info['compiler']}, torch {torch.version}, {kernels}")
        command = [*ninja_command(), "-f", str(build_file), "-j", str(job_count())]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise BuildError("the compiled extension failed to build (INDEED_WITHOUT_EXTENSION=1 installs without it)")

    def copy_extensions_to_source(self) -> None:
        """For an editable install: the libraries, if they were built, and the build information."""
        library = Path(self.get_ext_filename("indeed_ext._C"))
        for name in (library, autograd_library(library), library.with_name(INFO_NAME)):
            (ROOT / name).unlink(missing_ok=True)
            built = Path(self.build_lib, name)
            if built.exists():
                shutil.copyfile(built, ROOT / name)

    def get_outputs(self) -> list[str]:
        libraries = [Path(path) for path in super().get_outputs()]
        paths = [*libraries, *map(autograd_library, libraries)]
        return [str(path) for path in paths if path.exists()]


def ninja_text(
    compiler: list[str], torch: Torch, cuda: CudaBuild | None, sources: list[str], objects: Path, library: Path
) -> str:
    """The ninja file: one edge per source, one for each library; run from the repository root."""
    import pybind11  # of the build environment

    include = torch.root / "include"
    includes = ["-Icsrc", "-isystem", str(include)]
    # Torch's headers put their paths into error messages: not those of the machine that builds.
    prefix_map = f"-fmacro-prefix-map={include}/="
    user_flags = shlex.split(os.environ.get("CXXFLAGS", ""))
    cxx = [*compiler, *CXX_FLAGS, prefix_map, *user_flags, *includes]
    link = [*compiler, "-shared", *user_flags, *shlex.split(os.environ.get("LDFLAGS", "")), f"-L{torch.root / 'lib'}"]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    lines = [f"builddir = {escape(objects)}"]
    if cuda is not None:
        # The toolkit's own headers come first: those beside torch may be of another minor version.
        folders = (cuda.toolkit.root / "include", cuda.cublas)
        cuda_include = [word for path in folders for word in ("-isystem", str(path))]
        cxx += ["-DUSE_CUDA", *cuda_include]
        nvcc = [str(cuda.toolkit.nvcc), f"-ccbin={cuda.host_compiler}", *NVCC_FLAGS, f"-Xcompiler={prefix_map}"]
        nvcc += ["-DUSE_CUDA", *arch_flags(cuda.archs)]
        lines += rule("nvcc", [*nvcc, *includes, *cuda_include], "-MD -MF $out.d -c $in -o $out", depfile=True)
        libraries += ["-ltorch_cuda", f"-L{cuda.toolkit.library_dir}", "-lcudart"]
    # Only modules see Python's headers, only the first the build information, whose text changes from build to build.
    # The other takes torch's own pybind11, which hands on what torch's operators raise.
    python = f"-I{sysconfig.get_path('include')}"
    more = {
        "csrc/module.cpp": [f"-I{pybind11.get_include()}", python, f"-I{objects}"],
        "csrc/autograd/module.cpp": ["-UTORCH_TARGET_VERSION", python],
    }
    lines += rule("cxx", cxx, "$more -MD -MF $out.d -c $in -o $out", depfile=True)
    lines += rule("link", link, "$in -o $out $more " + shlex.join(libraries))
    outputs: dict[Path, list[str]] = {library: [], autograd_library(library): []}
    for source in sources:
        # The whole name, suffix included: operators.cpp and operators.cu may share a stem.
        output = escape(objects / (source + ".o"))
        lines.append(f"build {output}: {'nvcc' if source.endswith('.cu') else 'cxx'} {escape(source)}")
        if source in more:
            lines.append("  more = " + shlex.join(more[source]).replace("$", "$$"))
        outputs[autograd_library(library) if source.startswith("csrc/autograd/") else library].append(output)
    for path, objects_of in outputs.items():
        lines.append(f"build {escape(path)}: link {' '.join(objects_of)}")
    lines.append("  more = -ltorch_python")
    return "\n".join(lines) + "\n"


def rule(name: str, command: list[str], rest: str, depfile: bool = False) -> list[str]:
    """A ninja rule running ``command`` followed by ``rest``."""
    lines = [f"rule {name}", f"  command = {shlex.join(command).replace('$', '$$')} {rest}"]
    return [*lines, f"  description = {name} $out", *(["  depfile = $out.d", "  deps = gcc"] if depfile else [])]


def escape(path: Path | str) -> str:
    """A path in a ninja build line."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja_command() -> list[str]:
    """ninja from the path, else the Python package's (whose folder need not be on the path)."""
    return ["ninja"] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]


def job_count() -> int:
    """As many jobs as this process has cores, or fewer if MAX_JOBS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(os.environ.get("MAX_JOBS", cores))))


def git_commit() -> str | None:
    """The commit being built, if this is a git checkout."""
    return first_line(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]) if (ROOT / ".git").exists() else None


def first_line(command: list[str]) -> str | None:
    """The first line a command prints, or None if it fails."""
    return ((output(command) or "").splitlines() or [""])[0].strip() or None


def write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` unless it is there already, so that ninja does not rebuild for nothing."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
