"""Finding the Triton backend without importing Triton, which takes a second and is needed by few processes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_KERNELS = f"{__package__}.triton_kernels"

#: Why there are no Triton operators, in one sentence; None where they can be registered.
TRITON_ERROR: str | None = None


def find_operators() -> ModuleType | None:
    """The module that registers the operators, which imports Triton at their first call; None where it is missing."""
    global TRITON_ERROR
    if importlib.util.find_spec("triton") is None:
        TRITON_ERROR = "Triton is not installed (pip install triton; CUDA builds of torch bring it)"
        return None
    if not _find_kernels():
        TRITON_ERROR = f"{Path(__file__).parent} holds no Triton kernels (the installation is incomplete)"
        return None
    return importlib.import_module(f"{_KERNELS}.operators")


def _find_kernels() -> bool:
    """Whether the subpackage is there; in a source tree it lies beside the package and is loaded from there."""
    if importlib.util.find_spec(_KERNELS) is not None:
        return True
    folder = Path(__file__).resolve().parent.parent / "triton_kernels"
    source = folder / "__init__.py"
    # Any folder of that name might be there, even Triton's own package.
    if not (folder / "fused_indeed_loss.py").exists():
        return False
    spec = importlib.util.spec_from_file_location(_KERNELS, source, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        return False
    sys.modules[_KERNELS] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return True
