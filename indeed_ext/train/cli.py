"""The trainer's commands: ``indeed recipes``, ``indeed fit``, ``indeed test``.

Kept apart from :mod:`.lightning_cli` so that a command that needs no Lightning does not wait for its import.
"""

from __future__ import annotations

import sys

from .recipes import recipe_names, recipe_summary

USAGE = "usage: indeed recipes | indeed fit --recipe NAME [...] | indeed test --recipe NAME --ckpt_path PATH [...]"


def main(argv: list[str] | None = None) -> None:
    """Run ``argv`` (default: the command line); exits with status 2 and one line on an error of the user."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else None
    if command == "recipes":
        width = max(map(len, recipe_names()))
        print("\n".join(f"{name:<{width}}  {recipe_summary(name)}" for name in recipe_names()))
    elif command in ("fit", "test"):
        from .lightning_cli import run

        run(argv)
    elif command == "compare":
        from .compare import compare

        compare(argv[1:])
    elif command in (None, "-h", "--help"):
        print(USAGE)
    else:
        print(f"indeed: error: unknown command {command!r}; {USAGE}", file=sys.stderr)
        raise SystemExit(2)
