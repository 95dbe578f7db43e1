"""Label words of every backend, bit for bit."""

from __future__ import annotations

import kit
import pytest
import torch
from kit import Backend

from indeed_ext import pack_labels, reference

_SIZES = [(batch, classes) for batch in (0, 1, 3, 70) for classes in (1, 2, 31, 32, 33, 63, 64, 65, 80, 1000)]


@pytest.mark.parametrize(("batch", "classes"), _SIZES, ids=[f"{batch}x{classes}" for batch, classes in _SIZES])
def test_every_form_of_labels(backend: Backend, batch: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    for unknown in (False, True):
        labels = kit.random_labels(generator, batch, classes, unknown=unknown, density=0.4)
        present, known = (words.to(backend.device) for words in reference.pack_labels(labels, with_known=True))
        assert present.shape == (batch, -(-classes // 32))
        dtypes = [torch.int64, torch.int32, torch.int16, torch.int8, *kit.DTYPES]
        for dtype in dtypes if unknown else [*dtypes, torch.bool, torch.uint8]:
            given = labels.to(dtype).to(backend.device)
            with kit.Unchanged({"labels": given}):
                words, known_words = pack_labels(given, with_known=True, backend=backend.name)
            assert words.dtype == known_words.dtype == torch.int32
            assert torch.equal(words, present), dtype
            assert torch.equal(known_words, known), dtype
            assert torch.equal(pack_labels(given, backend=backend.name), present), dtype


def test_words_are_laid_out_as_documented(backend: Backend) -> None:
    """Class c at bit c % 32 of word c // 32; bit 31 is the sign; unused bits are clear."""
    labels = torch.zeros(4, 33, dtype=torch.int64)
    labels[0, 0] = labels[1, 31] = labels[2, 32] = 1
    labels[3, 5] = -1
    words, known = pack_labels(labels.to(backend.device), with_known=True, backend=backend.name)
    assert words.tolist() == [[1, 0], [-(2**31), 0], [0, 1], [0, 0]]
    assert known.tolist() == [[-1, 1], [-1, 1], [-1, 1], [~(1 << 5), 1]]


@pytest.mark.parametrize("classes", [1, 32, 33, 80])
def test_round_trip(backend: Backend, classes: int) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(classes), 50, classes, density=0.5).bool()
    words = pack_labels(labels.to(backend.device), backend=backend.name)
    assert torch.equal(reference.unpack_labels(words, classes).cpu(), labels)


def test_layouts(backend: Backend) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(0), 9, 40, unknown=True).to(backend.device)
    layouts = {
        "transposed": labels.t().contiguous().t(),
        "every other column": labels.repeat_interleave(2, 1)[:, ::2],
        "every other row": labels.repeat_interleave(2, 0)[::2],
        "expanded": labels[:1].expand(9, 40),
    }
    for name, changed in layouts.items():
        assert not changed.is_contiguous()
        expected = reference.pack_labels(changed.contiguous(), with_known=True)
        for words, expected_words in zip(
            pack_labels(changed, with_known=True, backend=backend.name), expected, strict=True
        ):
            assert torch.equal(words, expected_words), name
