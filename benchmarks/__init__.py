"""Benchmarks of indeed_ext.

`pytest benchmarks` for single operations, `python -m benchmarks.report` for the report, and `python -m benchmarks.tune`
for the choice between two backends of a GPU.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m` puts the repository first on the path, and there indeed_ext may be bare source, without its compiled
# extension. Last on the path, the repository is found only where no indeed_ext is installed.
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT:
    sys.path.append(sys.path.pop(0))
