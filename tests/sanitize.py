"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

python tests/sanitize.py [--quick] [pytest arguments]

Builds the package with both into build/sanitize, beside what is installed, and runs the tests of its operators on it.
Any report ends the process that made it, so that the command fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
BUILD = ROOT / "build" / "sanitize"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g"

SUITE = [
    *("test_fused_indeed_loss.py", "test_identical_disparate.py", "test_six_way_bce.py", "test_mine_pairs.py"),
    *("test_pack_labels.py", "test_loss_autograd.py", "test_zero_features.py", "test_tile_edges.py"),
    *("test_threads.py", "test_numeric_range.py", "test_bad_input.py", "test_fuzz.py"),
]
QUICK = ["test_numeric_range.py", "test_zero_features.py", "test_tile_edges.py", "test_pack_labels.py"]


def missing_runtime() -> str | None:
    """Why the sanitizers cannot run here; None where they can."""
    try:
        return None if Path(_library("libasan.so")).is_absolute() else "g++ came without AddressSanitizer's library"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no g++: {error}"


def _library(name: str) -> str:
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def build(folder: Path = BUILD, sources: Path = ROOT) -> Path:
    """The folder of the package built with the sanitizers; only what changed is compiled again."""
    library = folder / "lib"
    environment = {**os.environ, "CXX": "g++", "CXXFLAGS": FLAGS, "LDFLAGS": FLAGS, "INDEED_WITH_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder}", f"--build-lib={library}"]
    done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return library


def run(library: Path, tests: Sequence[str], rest: Sequence[str]) -> int:
    """The exit status of pytest on the package in ``library``."""
    environment = os.environ | {
        "PYTHONPATH": str(library),
        # The C++ library as well: the sanitizer looks for its throw at start-up.
        "LD_PRELOAD": f"{_library('libasan.so')} {_library('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # From this folder, where no other indeed_ext lies before the one in ``library``.
    place = [sys.executable, "-c", "import indeed_ext; print(indeed_ext.__file__)"]
    found = subprocess.run(place, cwd=TESTS, env=environment, capture_output=True, text=True, check=True).stdout
    if not Path(found.strip()).is_relative_to(library):
        raise SystemExit(f"expected the package in {library}, found {found}")
    backends = ["--backend=cpu", "--backend=cpu-baseline"]
    # What a sanitizer says as the process ends is not to be captured.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys", *backends]
    return subprocess.run([*command, *rest, *tests], cwd=TESTS, env=environment).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, run, and return pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python tests/sanitize.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample of the tests, in a minute or two")
    options, rest = parser.parse_known_args(arguments)
    if (reason := missing_runtime()) is not None:
        parser.error(reason)
    return run(build(), QUICK if options.quick else SUITE, rest)


if __name__ == "__main__":
    sys.exit(main())
