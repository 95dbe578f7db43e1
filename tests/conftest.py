"""Every test that takes ``backend`` runs once for each backend of this build.

``@pytest.mark.cases(maker=...)`` adds ``case``, drawn from ``maker(backend)``; ``@pytest.mark.compiled`` leaves
out backends without kernels of their own. A backend that is missing is reported once, in test_backends.py.

Of a backend that is :attr:`kit.Backend.sampled`, a run that does not name it takes a fixed sample of each test's
variants, says how many, and counts the others as deselected; `--backend NAME` runs them all. `--sample` takes such a
sample of every backend.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels are defined as interpreted or compiled when Triton is imported: before the backends are looked at.
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.register_assert_rewrite("kit")

import kit  # noqa: E402

from indeed_ext import _extension  # noqa: E402

_SAMPLES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", action="append", metavar="NAME", help="run only this backend (may be repeated)")
    parser.addoption("--sample", action="store_true", help="a fixed sample of each test's variants, of every backend")
    parser.addoption("--fuzz-cases", type=int, metavar="N", help="so many new cases in test_fuzz.py, not the usual 300")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cases(maker=...): adds the argument `case`, one of maker(backend)")
    config.addinivalue_line("markers", "only_with(name): one of the tests left out unless --backend names this backend")
    config.addinivalue_line("markers", "compiled: only for backends with kernels of their own")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    backends = kit.backends_under_test(metafunc.config.getoption("--backend"))
    if metafunc.definition.get_closest_marker("compiled"):
        backends = [backend for backend in backends if backend.compiled]
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is None:
        metafunc.parametrize("backend", backends, ids=str)
        return
    pairs = [(backend, case) for backend in backends for case in marker.kwargs["maker"](backend)]
    metafunc.parametrize("backend, case", pairs, ids=[f"{backend}-{case}" for backend, case in pairs])


def _sampled_backend(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("only_with")
    if marker is not None:
        return str(marker.args[0])
    callspec = getattr(item, "callspec", None)
    backend = callspec.params.get("backend") if callspec else None
    sampled = backend is not None and (backend.sampled or item.config.getoption("--sample"))
    return str(backend) if sampled else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps kit.sample_size variants of a test, those whose names hash lowest, so that no option is favoured."""
    chosen = [] if config.getoption("--sample") else config.getoption("--backend") or []
    variants: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        name = _sampled_backend(item)
        if name is not None and name not in chosen:
            variants.setdefault((name, item.nodeid.split("[")[0]), []).append(item)
    left_out: set[str] = set()
    for group in variants.values():
        if group[0].get_closest_marker("only_with"):
            left_out.update(item.nodeid for item in group)
            continue
        group.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        left_out.update(item.nodeid for item in group[kit.sample_size(len(group)) :])
    if not left_out:
        return
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]
    for name in sorted({name for name, _ in variants}):
        total = sum(len(group) for (owner, _), group in variants.items() if owner == name)
        kept = sum(_sampled_backend(item) == name for item in items)
        config.stash.setdefault(_SAMPLES, []).append(
            f"backend {name}: {kept} of {total} tests, a fixed sample; all of them with --backend {name} alone"
        )


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return config.stash.get(_SAMPLES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_SAMPLES, []):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """One seed, and one thread unless a test asks for more: most tensors here are too small for two."""
    torch.manual_seed(0)
    with kit.threads(1):
        yield


@pytest.fixture(autouse=True)
def _kernel_variant(request: pytest.FixtureRequest) -> Iterator[None]:
    callspec = getattr(request.node, "callspec", None)
    variant = getattr(callspec.params.get("backend"), "variant", None) if callspec else None
    if variant is None:
        yield
        return
    library = _extension.LIBRARY
    assert library is not None
    before = library.kernel_variant()
    library.set_kernel_variant(variant)
    try:
        yield
    finally:
        library.set_kernel_variant(before)
