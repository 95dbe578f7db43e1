"""Finding the Triton backend without importing Triton, which takes a second and is needed by few processes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

NAMESPACE = "indeed_ext_triton"

#: Why there are no Triton operators, in one sentence; None where they are registered.
TRITON_ERROR: str | None = None


def register_operators() -> str | None:
    """Define the operators; the device type they serve, or None where Triton is missing."""
    global TRITON_ERROR
    if importlib.util.find_spec("triton") is None:
        TRITON_ERROR = "Triton is not installed (pip install triton; CUDA builds of torch bring it)"
        return None
    _load_kernels_of_a_source_tree()
    return importlib.import_module(f"{__package__}.triton_kernels.operators").register()


def _load_kernels_of_a_source_tree() -> None:
    """There the subpackage lies beside the package, not inside it."""
    name = f"{__package__}.triton_kernels"
    folder = Path(__file__).resolve().parent.parent / "triton_kernels"
    if importlib.util.find_spec(name) is not None or not folder.is_dir():
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is not None and spec.loader is not None:
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
