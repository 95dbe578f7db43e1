"""The loss as modules: :class:`INDeeDLoss` beside a classifier, :class:`INDeeDHead` in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .constants import NORMS, REDUCTIONS, STRATEGIES
from .functional import Lam, fused_indeed_loss
from .validation import Labels, check_eps, check_lam, check_seed, choice


class INDeeDLoss(nn.Module):
    """:func:`fused_indeed_loss` with its options held: ``loss(features, weight, labels, bias=None)``.

    Keywords of the function given in a call override the options held. With an int ``seed`` the pairs of
    successive training calls are a repeatable sequence, advancing by one a call; with None they follow
    torch's default generator. Neither the sequence nor ``pos_weight`` is part of the state_dict.
    """

    def __init__(
        self,
        norm: str = "l2",
        lam: Lam = 1.0,
        strategy: str = "anchor",
        *,
        eps: float = 1e-12,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        seed: int | Tensor | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, table in (
            ("norm", norm, NORMS),
            ("strategy", strategy, STRATEGIES),
            ("reduction", reduction, REDUCTIONS),
        ):
            choice(name, value, table)
        check_lam(lam)
        self.norm, self.lam, self.strategy, self.eps = norm, lam, strategy, check_eps(eps)
        self.reduction, self.backend = reduction, backend
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        if seed is not None:
            check_seed(seed)
            seed = torch.as_tensor(seed, dtype=torch.int64).clone()
        self.register_buffer("seed", seed, persistent=False)

    def forward(
        self, features: Tensor, weight: Tensor, labels: Labels, bias: Tensor | None = None, **overrides: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of features ``[B, n]`` under the classifier weight ``[C, n]`` and bias ``[C]``."""
        held = ("norm", "lam", "strategy", "eps", "reduction", "pos_weight", "backend")
        options = {name: getattr(self, name) for name in held}
        if overrides.get("pairs") is None and overrides.get("seed") is None:
            options["seed"] = self._next_seed()
        options.update((name, value) for name, value in overrides.items() if value is not None)
        return fused_indeed_loss(features, weight, labels, bias=bias, **options)

    def _next_seed(self) -> Tensor | None:
        if self.seed is None or not self.training:
            return self.seed
        current = self.seed.clone()
        self.seed += 1
        return current

    def extra_repr(self) -> str:
        """The options that decide the loss."""
        return f"norm={self.norm!r}, lam={self.lam}, strategy={self.strategy!r}, reduction={self.reduction!r}"


class INDeeDHead(nn.Linear):
    """A linear classifier that is an ``nn.Linear`` (same state_dict) and knows its training loss.

    ``head(x)`` gives logits ``[B, C]``; ``head(x, labels)`` the loss, so that the weight is used inside the
    wrapped forward of DDP, FSDP and torch.compile.

    Args:
        in_features, num_classes, bias, device, dtype: as for ``nn.Linear``.
        options: keywords of :class:`INDeeDLoss` (norm, lam, strategy, eps, reduction, pos_weight, seed, backend).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, num_classes, bias, device=device, dtype=dtype)
        self.criterion = INDeeDLoss(**options)

    def forward(self, x: Tensor, labels: Labels | None = None, **overrides: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``[B, C]`` of features ``x [B, n]``, or, given labels, the loss (keywords override the options)."""
        if labels is None:
            return super().forward(x)
        return self.criterion(x, self.weight, labels, self.bias, **overrides)
