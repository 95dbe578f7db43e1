"""Recipes: the YAML configurations that ship with the package, one complete training run each.

A recipe ``NAME-smoke`` is recipe ``NAME`` with the few settings of ``NAME-smoke.yaml`` on top, so that it
exercises the same run in seconds.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SMOKE_SUFFIX = "-smoke"


def recipe_names() -> list[str]:
    """The names of all recipes, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_files(name: str) -> list[Path]:
    """The configuration files of recipe ``name``, in the order in which they apply.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in recipe_names():
        raise ValueError(f"unknown recipe {name!r}; the recipes are: {', '.join(recipe_names())}")
    base = name.removesuffix(SMOKE_SUFFIX)
    return [FOLDER / f"{stem}.yaml" for stem in dict.fromkeys((base, name))]


def recipe_summary(name: str) -> str:
    """Recipe ``name`` in one line: the comment that its file begins with."""
    first_line = recipe_files(name)[-1].read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip()
