"""A sample of `python tests/sanitize.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sanitize


@pytest.mark.skipif(sanitize.missing_runtime() is not None, reason=str(sanitize.missing_runtime()))
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="tried on x86-64 only")
def test_the_cpu_kernels_under_sanitizers() -> None:
    command = [sys.executable, sanitize.__file__, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(sanitize.__file__).parent)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert " passed" in done.stdout
