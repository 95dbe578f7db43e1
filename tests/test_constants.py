"""What each language states of the numbers that all backends agree on is the same."""

from __future__ import annotations

import pytest

from indeed_ext import _extension, constants, reference


@pytest.mark.skipif(_extension.LIBRARY is None, reason=str(_extension.EXTENSION_ERROR))
def test_the_extension_states_the_same_constants() -> None:
    assert _extension.LIBRARY is not None
    compiled = _extension.LIBRARY.constants()
    options = constants.STRATEGIES | constants.NORMS | constants.REDUCTIONS
    assert compiled == {name: options[name] if name in options else _in_python(name) for name in compiled}
    assert set(options) <= set(compiled)


def _in_python(name: str) -> int:
    return getattr(constants, name) if hasattr(constants, name) else getattr(reference, name)


def test_the_reference_states_the_same_constants() -> None:
    """It imports nothing of the package, so that it stays an oracle of its own."""
    assert reference.WORD_BITS == constants.WORD_BITS
    for dtype in (*constants.FLOAT_DTYPES,):
        assert reference.accumulation_dtype(dtype) == constants.accumulation_dtype(dtype)
