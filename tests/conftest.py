"""Every test that takes ``backend`` runs once for each backend of this build.

``@pytest.mark.cases(maker=...)`` adds ``case``, drawn from ``maker(backend)``; ``@pytest.mark.compiled`` leaves
out backends without kernels of their own. A backend that is missing is reported once, in test_backends.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels are defined as interpreted or compiled when Triton is imported: before the backends are looked at.
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.register_assert_rewrite("kit")

import kit  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", action="append", metavar="NAME", help="run only this backend (may be repeated)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cases(maker=...): adds the argument `case`, one of maker(backend)")
    config.addinivalue_line("markers", "compiled: only for backends with kernels of their own")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    backends = kit.backends_under_test(metafunc.config.getoption("--backend"))
    if metafunc.definition.get_closest_marker("compiled"):
        backends = [backend for backend in backends if backend.compiled]
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is None:
        metafunc.parametrize("backend", backends, ids=lambda backend: backend.name)
        return
    chosen = metafunc.config.getoption("--backend")
    pairs = [
        (backend, case)
        for backend in backends
        for case in marker.kwargs["maker"](backend)[:: 1 if chosen else backend.every]
    ]
    metafunc.parametrize("backend, case", pairs, ids=[f"{backend.name}-{case}" for backend, case in pairs])


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """One seed, and one thread unless a test asks for more: most tensors here are too small for two."""
    torch.manual_seed(0)
    with kit.threads(1):
        yield
