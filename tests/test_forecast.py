"""The forecast's inputs are what the code does: launches, grids, blocks, serial steps."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_emulation.build import BACKEND, Unavailable, load_backend

from indeed_ext import fused_indeed_loss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _repository_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not installed: they are imported from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))


def _step(batch: int, width: int, classes: int, dtype: torch.dtype = torch.float32, mined: bool = True) -> Any:
    from benchmarks.cases import Case, Shape, Step

    return Step(Case(Shape(batch, width, classes), dtype=dtype), mined)


@pytest.fixture
def emulation() -> ctypes.CDLL:
    try:
        return load_backend()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("batch", "width", "classes", "mined"),
    [(96, 64, 40, True), (5, 1088, 300, False), (1030, 16, 70, True), (1030, 16, 4128, False)],
)
def test_cuda_launches(
    emulation: ctypes.CDLL, batch: int, width: int, classes: int, mined: bool, dtype: torch.dtype
) -> None:
    """Kernels, grids and blocks in their order, and as many launches as the library counts."""
    from benchmarks import cuda_kernels
    from benchmarks.cases import LABEL_DTYPE

    features, weight = torch.rand(batch, width, dtype=dtype), torch.rand(classes, width, dtype=dtype)
    bias, labels = torch.rand(classes, dtype=dtype), (torch.rand(batch, classes) < 0.2).to(LABEL_DTYPE)
    leaves = [leaf.requires_grad_() for leaf in (features, weight, bias)]
    pairs = None if mined else torch.randint(batch, (batch,))
    _taken(emulation)
    before = emulation.cuda_emulation_launch_count()
    fused_indeed_loss(*leaves[:2], labels, bias=leaves[2], pairs=pairs, backend=BACKEND)
    launches, count = _taken(emulation), emulation.cuda_emulation_launch_count() - before

    step = _step(batch, width, classes, dtype, mined)
    (_, chunks), sizes = cuda_kernels.chunks(step), cuda_kernels.sizes(step)
    expected, counted = [], 0
    for lines in (cuda_kernels.BEFORE, cuda_kernels.PER_CHUNK * chunks, cuda_kernels.AFTER):
        for line in lines:
            if isinstance(line, cuda_kernels.Product) or (line.when(sizes) and line.counted):
                counted += 1
            if isinstance(line, cuda_kernels.Line) and line.grid and line.when(sizes):
                expected.append((line.kernel, (*line.grid(sizes), line.block(sizes))))
    assert count == counted
    assert [name for name, _ in launches] == [name for name, _ in expected]
    if chunks == 1:
        assert launches == expected
    assert chunks == (2 if classes == 4128 else 1)


def _taken(emulation: ctypes.CDLL) -> list[tuple[str, tuple[int, ...]]]:
    """(kernel, (grid x, grid y, threads)) of the launches since the last time."""
    text = ctypes.create_string_buffer(1 << 16)
    emulation.cuda_emulation_take_record(text, ctypes.c_size_t(len(text)))
    taken = []
    for line in text.value.decode().splitlines():
        name, sizes = line.split("\t")
        found = re.search(r"\w+", name)
        assert found
        taken.append((found.group(), tuple(map(int, sizes.split()))))
    return taken
