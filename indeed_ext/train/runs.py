"""The folder of a run, and its checkpoint."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from .errors import fail


class LastCheckpoint(ModelCheckpoint):
    """``checkpoints/last.ckpt`` of the run folder, written after every epoch.

    A class of its own, so that a user may add a :class:`ModelCheckpoint` with whatever settings.

    Attributes:
        run: what every checkpoint, also those of other callbacks, says of the run: its recipe and its classes.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)
        self.run: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add :attr:`run`."""
        checkpoint["run"] = self.run

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: a resumed run writes into its own folder and leaves that of the interrupted one alone."""


def new_folder(parent: Path, name: str, make: bool) -> Path:
    """``parent/name-001``, or the next number that is free; only the first process of a run is to ``make`` it."""
    for number in itertools.count(1):
        folder = parent / f"{name}-{number:03d}"
        if not make:
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
    if not isinstance(checkpoint, dict) or not {"hyper_parameters", "run"} <= checkpoint.keys():
        fail(f"--ckpt_path: {path} is not a checkpoint of this trainer")
    return checkpoint
