"""Compiles csrc/cuda for the host emulation of CUDA, and loads it as the test-only backend ``cuda-emulated``.

A variant decides what is seen besides wrong results: ``plain`` (divergence, misaligned access, writes past shared
memory), ``race`` (unordered accesses as well) and ``address`` (accesses out of bounds, by AddressSanitizer, which the
Python process must have been started with: see :func:`sanitizer_environment`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch

from indeed_ext import available_backends, operators
from indeed_ext.backends import register_backend

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = "tests/cuda_emulation"
BACKEND, NAMESPACE = "cuda-emulated", "indeed_ext_emulated"

#: What the .cu files are compiled with on top of the rest; host sources are the same in all variants.
VARIANTS = {
    "plain": [],
    "race": ["-fsanitize=thread", "-g1", "-DINDEED_EMULATION_RACE_CHECK"],
    "address": ["-fsanitize=address", "-g1"],
}
VARIABLE = "INDEED_EMULATION_VARIANT"

RUNTIME = [f"{HERE}/{name}.cpp" for name in ("runtime", "race_check", "misalignment", "launches", "cublas")]
SELF_TEST = ["csrc/cuda/launch.cpp", f"{HERE}/self_test.cu"]


class Unavailable(Exception):
    """Why there is no emulation here, in one sentence."""


@functools.cache
def _project_build() -> ModuleType:
    """``build_backend.extension``, without putting the repository root, and so its indeed_ext, on the path."""
    if "build_backend" not in sys.modules:
        folder = ROOT / "build_backend"
        spec = importlib.util.spec_from_file_location("build_backend", folder / "__init__.py")
        if spec is None or spec.loader is None or not folder.exists():
            raise Unavailable("the tests stand outside the source tree")
        sys.modules["build_backend"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module("build_backend.extension")


@functools.cache
def compiler() -> list[str]:
    """g++ or one that says it is: the sanitizers' hooks and the stack switch are GCC's on Linux."""
    project = _project_build()
    found = project.find_compiler()
    if found is None or sys.platform != "linux":
        raise Unavailable("the emulation needs a C++ compiler" if found is None else "the emulation runs on Linux only")
    version = subprocess.run([*found, "-v"], capture_output=True, text=True, check=False).stderr
    if "gcc version" not in version:
        raise Unavailable(f"the emulation needs g++ (found {found[-1]})")
    return found


def _folder() -> Path:
    folder = ROOT / "build" / "cuda_emulation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only source tree
        folder = Path(tempfile.gettempdir()) / f"indeed_cuda_emulation_{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_current(stamp: Path, command: list[str]) -> bool:
    """Whether the target beside ``stamp`` was made by this command from these very files."""
    try:
        recorded = json.loads(stamp.read_text(encoding="utf-8"))
        return recorded["command"] == command and all(
            _digest(ROOT / name) == digest for name, digest in recorded["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")


def _object(folder: Path, source: str, flags: list[str]) -> Path:
    target = folder / (source + ".o")
    stamp, depfile = target.with_suffix(".json"), target.with_suffix(".d")
    language = ["-x", "c++"] if source.endswith(".cu") else []
    command = [*compiler(), *flags, "-MMD", "-MF", str(depfile), "-c", *language, source, "-o", str(target)]
    if target.exists() and _is_current(stamp, command):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    _run(command)
    names = depfile.read_text(encoding="utf-8").replace("\\\n", " ").split()[1:]
    ours = [name for name in names if not Path(name).is_absolute()]
    files = {name: _digest(ROOT / name) for name in ours}
    stamp.write_text(json.dumps({"command": command, "files": files}), encoding="utf-8")
    return target


def operator_sources() -> list[str]:
    """What the CUDA backend is built from."""
    found = [path for pattern in ("*.cpp", "*.cu") for path in (ROOT / "csrc/cuda").glob(pattern)]
    if not found:
        raise Unavailable("csrc/cuda holds no kernels")
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def build(name: str, variant: str, sources: list[str]) -> Path:
    """The library ``name`` of these sources and the emulation, compiled where something has changed."""
    project = _project_build()
    includes = ["-Icsrc", f"-I{HERE}", "-isystem", str(Path(torch.__file__).parent / "include")]
    # Few rows of many classes are several class chunks then.
    defines = ["-DINDEED_CUDA_EMULATION", f"-DINDEED_OPERATOR_NAMESPACE={NAMESPACE}", "-DINDEED_CHUNK_ELEMENTS=65536"]
    common = [*project.CXX_FLAGS, "-O1", *defines, *includes]
    # The hooks of -fsanitize=thread are the emulation's own: it is neither linked to the sanitizer nor calls itself.
    kernel_flags = [*common, *VARIANTS[variant], "-fsanitize=alignment", "-Wno-unknown-pragmas"]
    runtime_flags = [*common, *(flag for flag in VARIANTS[variant] if flag != "-fsanitize=thread")]
    folder = _folder()
    with _locked(folder):

        def compile_one(source: str) -> Path:
            if source.endswith(".cu"):
                return _object(folder / variant, source, kernel_flags)
            if source.startswith(HERE):
                return _object(folder / variant, source, runtime_flags)
            return _object(folder / "host", source, common)

        with ThreadPoolExecutor(project.job_count()) as pool:
            objects = list(pool.map(compile_one, [*sources, *RUNTIME]))
        library = folder / variant / f"{name}.so"
        stamp = library.with_suffix(".json")
        lib = Path(torch.__file__).parent / "lib"
        sanitizer = ["-fsanitize=address"] if variant == "address" else []
        link = [*compiler(), "-shared", *sanitizer, *map(str, objects), f"-L{lib}", "-ltorch", "-ltorch_cpu", "-lc10"]
        link += ["-ldl", "-o", str(library)]
        digests = [_digest(each) for each in objects]
        if not library.exists() or not _is_current(stamp, [*link, *digests]):
            # A new file: the old one may be loaded by a running process.
            library.unlink(missing_ok=True)
            _run(link)
            stamp.write_text(json.dumps({"command": [*link, *digests], "files": {}}), encoding="utf-8")
    return library


def variant_of_process() -> str:
    return os.environ.get(VARIABLE) or "plain"


@functools.cache
def load_backend() -> ctypes.CDLL:
    """Build what is needed and register the backend ``cuda-emulated`` in this process.

    Raises:
        Unavailable: why it cannot be had here.
    """
    if "cpu" not in available_backends():
        # It serves CPU tensors, and must not become what the package chooses for them.
        raise Unavailable("the emulation stands beside the compiled CPU backend, which is missing")
    library = build("operators", variant_of_process(), operator_sources())
    operators.define(NAMESPACE)
    torch.ops.load_library(str(library))
    register_backend(BACKEND, NAMESPACE, "cpu")
    return ctypes.CDLL(str(library))


@functools.cache
def load_self_test(variant: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(build("self_test", variant, SELF_TEST)))


def sanitizer_environment() -> dict[str, str]:
    """The environment of a Python process that may load the ``address`` variant."""

    def runtime(name: str) -> str:
        path = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        return path.stdout.strip()

    asan = runtime("libasan.so")
    if not Path(asan).is_absolute():
        raise Unavailable("g++ came without AddressSanitizer's library")
    return {
        # The C++ library as well: the sanitizer looks for its throw at start-up.
        "LD_PRELOAD": f"{asan} {runtime('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:detect_stack_use_after_return=0",
        VARIABLE: "address",
    }
