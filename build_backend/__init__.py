"""In-tree PEP 517 backend: setuptools' own, which also asks for torch where there is none.

An isolated build does not see the packages of the environment it installs into. The build
finds that environment's torch by itself (:mod:`build_backend.environment`), so torch is a
build requirement only where the environment has none that is recent enough.
"""

from __future__ import annotations

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from .environment import torch_requirements

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What building a wheel needs beyond the static requirements."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *torch_requirements()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """What an editable install needs beyond the static requirements."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *torch_requirements()]
