"""What the build finds around it: the torch to build against and the C++ compiler."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

#: The oldest torch the operators run on; TORCH_TARGET_VERSION and the runtime requirement say the same.
MINIMUM_TORCH = (2, 11)


class BuildError(SystemExit):
    """The build cannot do what was asked of it; ends it with a message instead of a traceback."""


@dataclass(frozen=True)
class Torch:
    """An installed torch, known by its files; the build never imports it."""

    root: Path
    version: str
    cuda: str | None

    @property
    def is_recent_enough(self) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and tuple(map(int, numbers.groups())) >= MINIMUM_TORCH


def target_site_dirs() -> list[str]:
    """Package folders of the environment the running interpreter belongs to.

    pip runs an isolated build with the target environment's interpreter and only hides its
    package folders from ``sys.path``. (Front ends that build in an environment of their own,
    such as ``build`` and ``uv``, lead to that environment, which has no torch: they get the
    build requirement.)
    """
    directories = list(site.getsitepackages())
    in_venv = sys.prefix != sys.base_prefix
    if not in_venv:
        directories.append(site.getusersitepackages())
    return directories


def read_torch(root: Path) -> Torch:
    """Version and CUDA version of the torch installed at ``root``."""
    text = (root / "version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ *= *['\"](.+?)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b.*?= *['\"](.+?)['\"]", text, re.MULTILINE)
    if version is None:
        raise BuildError(f"{root / 'version.py'} names no torch version")
    return Torch(root, version[1], cuda[1] if cuda else None)


def find_torch(site_dirs: Iterable[str] | None = None) -> Torch | None:
    """The torch to build against: the build's own if it was given one, else the target environment's."""
    spec = importlib.util.find_spec("torch") if site_dirs is None else None
    if spec is None:
        spec = PathFinder.find_spec("torch", list(target_site_dirs() if site_dirs is None else site_dirs))
    if spec is None or spec.origin is None:
        return None
    return read_torch(Path(spec.origin).parent)


def find_compiler() -> list[str] | None:
    """The C++ compiler's command: ``CXX`` if set, else the first of the usual names; None if there is none."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise BuildError(f"CXX={os.environ['CXX']!r}: there is no such program")
        return chosen
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    return None


def reason_without_extension() -> str | None:
    """Why this build leaves the compiled extension out; None when it builds it."""
    if os.environ.get("INDEED_WITHOUT_EXTENSION", "0") not in ("", "0"):
        return "INDEED_WITHOUT_EXTENSION was set when the package was installed"
    if os.name != "posix":
        return "the compiled extension is built on Linux and macOS only"
    if find_compiler() is None:
        return "no C++ compiler (c++, g++, clang++ or CXX) was found when the package was installed"
    return None


def torch_requirements() -> list[str]:
    """What the build must be given: a torch, if it compiles anything and the target environment has none."""
    if reason_without_extension():
        return []
    torch = find_torch()
    if torch is not None and torch.is_recent_enough:
        return []
    return ["torch>=" + ".".join(map(str, MINIMUM_TORCH))]


def output(command: list[str]) -> str | None:
    """What a command prints, or None if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
