"""The folder of a run, and its checkpoint."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from .errors import fail


class LastCheckpoint(ModelCheckpoint):
    """``checkpoints/last.ckpt`` of the run folder, written after every epoch.

    A class of its own, so that a user may add a :class:`ModelCheckpoint` with whatever settings.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: a resumed run writes into its own folder and leaves that of the interrupted one alone."""


def new_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name-001``, or the next number that is free; only the first process of a run makes it."""
    for number in itertools.count(1):
        folder = parent / f"{name}-{number:03d}"
        if rank_zero_only.rank != 0:
            break
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


def read_checkpoint(path: str) -> dict[str, Any]:
    """The checkpoint at ``path``, or one line on what is wrong with it."""
    if not Path(path).is_file():
        fail(f"--ckpt_path: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises whatever the bytes provoke
        fail(f"--ckpt_path: torch cannot read {path} as a checkpoint")
    settings = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not {"backbone", "method", "num_classes"} <= settings.keys():
        fail(f"--ckpt_path: {path} is not a checkpoint of this trainer")
    return checkpoint
