"""The trainer's commands: recipes, fit, test, compare, predict, cam, export.

Kept apart from :mod:`.lightning_cli` so that a command that needs no Lightning does not wait for its import.
"""

from __future__ import annotations

import sys

from .errors import fail
from .recipes import recipe_names, recipe_summary

USAGE = """\
  indeed recipes                                   the recipes, a line each
  indeed fit --recipe NAME [...]                   train and evaluate
  indeed test --recipe NAME --ckpt_path PATH       evaluate a checkpoint
  indeed compare --recipe NAME [...]               several methods, several seeds: tables, pictures, one HTML page
  indeed predict MODEL FOLDER [--output CSV]       label the images of a folder
  indeed cam MODEL IMAGE... [--classes NAME...]    draw class activation maps
  indeed export MODEL [--format FORMAT]            write the network as torch.export or ONNX

MODEL is the folder of a run. Each command explains itself with --help."""


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
    elif command in ("predict", "cam", "export"):
        from .inference import main as use

        use(argv)
    elif command in (None, "-h", "--help"):
        print(USAGE)
    else:
        fail(f"unknown command {command!r}; see indeed --help")
