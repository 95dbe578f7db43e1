"""What one report is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cases import Shape
from .timing import Effort


@dataclass(frozen=True)
class Settings:
    """The options of ``python -m benchmarks.report`` that sections look at."""

    shapes: tuple[Shape, ...]
    effort: Effort
    device: str = "cpu"
    quick: bool = False
    with_compile: bool = True
    say: Callable[[str], None] = print
