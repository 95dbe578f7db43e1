"""Learning rate schedules that go by the step, over the whole training however long it is."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


class OneCycle(OneCycleLR):
    """torch's OneCycleLR over all steps of the training, which need not be counted beforehand.

    Args:
        max_lr: the largest learning rate.
        pct_start: share of the steps in which it rises.
        total_steps: filled in by the trainer.
    """

    def __init__(self, optimizer: Optimizer, max_lr: float, pct_start: float = 0.3, total_steps: int = 2) -> None:
        self.settings = (max_lr, pct_start)
        super().__init__(optimizer, max_lr, total_steps=total_steps, pct_start=pct_start)

    def over(self, total_steps: int) -> OneCycle:
        """The same schedule for a training of ``total_steps``."""
        return OneCycle(self.optimizer, *self.settings, total_steps=total_steps)
