"""A sample of the suite on every torch that is supported.

python tests/compatibility.py [--torch 2.11.0 ...] [--python INTERPRETER ...] [--all]

Each torch gets a virtual environment under build/compatibility, kept for the next run. INDEED_WHEELS names a folder of
wheels to install from without a network. --python takes an interpreter whose environment has torch and the test
dependencies already; only the package itself is installed into it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
ENVIRONMENTS = ROOT / "build" / "compatibility"
#: The oldest that the extension runs on, and those it was built for since.
SUPPORTED = ["2.11.0", "2.13.0", "2.14.1"]
SAMPLE = [
    *("test_operators.py", "test_compile.py", "test_loss_autograd.py", "test_seeds.py", "test_numeric_range.py"),
    *("test_mine_pairs.py", "test_pack_labels.py", "test_modules.py", "test_packaging.py", "test_device_code.py"),
]


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    torch: str
    python: str
    cuda: str
    result: str
    seconds: float


def create(torch: str, folder: Path = ENVIRONMENTS) -> str:
    """The interpreter of an environment with this torch and what the tests need."""
    python = folder / f"torch-{torch}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    wheels = os.environ.get("INDEED_WHEELS")
    source = ["--no-index", f"--find-links={wheels}"] if wheels else []
    # The interpreter of Triton 3.6, which torch 2.11 brings, fails with numpy 2.4.
    requirements = [f"torch=={torch}", "numpy<2.4", "setuptools>=77", "ninja", "pybind11", "wheel"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *source, *requirements], check=True)
    # The test extra asks for the package itself: its dependencies come with a build that compiles nothing.
    without = os.environ | {"INDEED_WITHOUT_EXTENSION": "1"}
    wanted = [f"{ROOT}[test]", *requirements[:2]]
    pip = [str(python), "-m", "pip", "install", "-q", *source, "--no-build-isolation", *wanted]
    subprocess.run(pip, check=True, env=without)
    return str(python)


def install(python: str) -> None:
    """The package, compiled against the torch that is there, without a network."""
    pip = [python, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", "--force-reinstall"]
    subprocess.run([*pip, str(ROOT)], check=True)


def describe(python: str) -> tuple[str, str, str]:
    """Versions of torch, Python and the CUDA kernels."""
    code = (
        "import platform, torch, indeed_ext._extension as e;"
        "print(torch.__version__, platform.python_version(), e.BUILD_INFO.get('cuda') or 'none')"
    )
    printed = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    torch, version, cuda = printed.stdout.split()
    return torch, version, cuda


def check(python: str, tests: Sequence[str]) -> Outcome:
    """Install into the environment of an interpreter and run the tests there."""
    began = time.monotonic()
    install(python)
    # From this folder, where no source tree lies before the package that was installed.
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    if done.returncode:
        print(done.stdout[-5000:], done.stderr[-2000:], file=sys.stderr)
    return Outcome(*describe(python), last.strip("= "), time.monotonic() - began)


def table(outcomes: Sequence[Outcome]) -> str:
    """As Markdown."""
    rows = [f"| {o.torch} | {o.python} | {o.cuda} | {o.result} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(
        ["| torch | Python | CUDA kernels | result | seconds |", "| --- | --- | --- | --- | ---: |", *rows]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a test failed anywhere."""
    parser = argparse.ArgumentParser(
        prog="python tests/compatibility.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", nargs="+", metavar="VERSION", help=f"default: {' '.join(SUPPORTED)}")
    parser.add_argument("--python", nargs="+", metavar="INTERPRETER", default=[], help="of environments that are there")
    parser.add_argument("--all", action="store_true", help="the whole suite, not a sample")
    options = parser.parse_args(arguments)
    versions = options.torch or ([] if options.python else SUPPORTED)
    tests = ["."] if options.all else SAMPLE
    outcomes = [check(python, tests) for python in (*options.python, *map(create, versions))]
    print(table(outcomes))
    return int(any("failed" in outcome.result or "error" in outcome.result for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
