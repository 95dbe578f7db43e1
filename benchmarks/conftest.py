"""Options of `pytest benchmarks`: --shape and --dtype (both may be repeated) beside pytest's own -k.

`pytest benchmarks -k "fused and l2 and anchor" --shape 128x2048x80 --dtype bfloat16` is one table per mode. Each table
is one operation and setting, one line per implementation. The suites look at single operations; for ratios to quote use
`python -m benchmarks.report`, which interleaves the implementations.
"""

from __future__ import annotations

import pytest
import torch

import indeed_ext

from .cases import Shape, dtype_name

#: Small, usual and large; all shapes are in the report.
SHAPES = (Shape(64, 512, 20), Shape(128, 2048, 80), Shape(256, 4096, 1000))
DTYPES = {dtype_name(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suites."""
    group = parser.getgroup("indeed_ext benchmarks")
    group.addoption("--shape", action="append", metavar="BxNxC", help="batch x feature width x classes, repeatable")
    group.addoption("--dtype", action="append", choices=DTYPES, help="of features and weight, repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing before every test fails for it."""
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("the suites need pytest-benchmark (pip install '.[test]')")


def pytest_report_header() -> str:
    """The settings that the tables depend on beside the machine."""
    return f"indeed_ext backends: {', '.join(indeed_ext.available_backends())}; threads: {torch.get_num_threads()}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise every benchmark that takes a ``shape`` or a ``dtype``."""
    options = metafunc.config.option
    if "shape" in metafunc.fixturenames:
        shapes = [Shape.parse(text) for text in getattr(options, "shape", None) or ()] or SHAPES
        metafunc.parametrize("shape", shapes, ids=str)
    if "dtype" in metafunc.fixturenames:
        dtypes = [DTYPES[name] for name in getattr(options, "dtype", None) or ["float32"]]
        metafunc.parametrize("dtype", dtypes, ids=dtype_name)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
