"""The ``indeed`` command: ``info`` and ``--version`` here, everything else is the trainer's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .train.cli import USAGE as TRAIN_USAGE

USAGE = f"""\
usage: indeed [--help] [--version] COMMAND ...

  indeed info                                      versions, the compiled extension, backends and why any is missing

The trainer's commands need pip install 'indeed_ext[train]':

{TRAIN_USAGE}"""

#: What the trainer imports beyond the package's own requirements: the extra [train], by module name.
TRAIN_MODULES = frozenset(
    {
        "jsonargparse",
        "lightning",
        "matplotlib",
        "pycocotools",
        "safetensors",
        "sklearn",
        "timm",
        "torchmetrics",
        "torchvision",
        "yaml",
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own if None) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        from . import __version__

        print(f"indeed_ext {__version__}")
    elif command == "info":
        from .info import render

        print(render())
    else:
        return _train(arguments)
    return 0


def _train(arguments: list[str]) -> int:
    try:
        from .train.cli import main as train_main

        train_main(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in TRAIN_MODULES:
            raise
        advice = "the trainer needs pip install 'indeed_ext[train]'"
        print(f"indeed {arguments[0]}: {missing} is not installed; {advice}", file=sys.stderr)
        return 1
    return 0
