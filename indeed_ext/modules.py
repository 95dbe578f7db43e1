"""The loss as modules: :class:`INDeeDLoss` beside a classifier, :class:`INDeeDHead` in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .constants import NORMS, REDUCTIONS, STRATEGIES
from .functional import Lam, fused_indeed_loss
from .validation import Labels, check_eps, check_lam, choice


class _LossSettings(nn.Module):
    """Options of :func:`fused_indeed_loss` held by a module, and a seed that advances with every training call.

    The state_dict stays that of the classifier: the seed counter and ``pos_weight`` are not saved.
    """

    def _configure(
        self,
        *,
        norm: str,
        lam: Lam,
        strategy: str,
        eps: float,
        reduction: str,
        pos_weight: Tensor | None,
        seed: int | None,
        backend: str | None,
    ) -> None:
        choice("norm", norm, NORMS)
        choice("strategy", strategy, STRATEGIES)
        choice("reduction", reduction, REDUCTIONS)
        check_lam(lam)
        self.norm, self.lam, self.strategy, self.eps = norm, lam, strategy, check_eps(eps)
        self.reduction, self.backend = reduction, backend
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        counter = None if seed is None else torch.tensor(seed, dtype=torch.int64)
        self.register_buffer("seed", counter, persistent=False)

    def _loss(
        self, features: Tensor, weight: Tensor, labels: Labels, bias: Tensor | None, **overrides: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        options = {
            "norm": self.norm,
            "lam": self.lam,
            "strategy": self.strategy,
            "eps": self.eps,
            "reduction": self.reduction,
            "pos_weight": self.pos_weight,
            "seed": self.seed,
            "backend": self.backend,
        }
        options.update({name: value for name, value in overrides.items() if value is not None})
        if self.training and self.seed is not None and "seed" not in overrides and overrides.get("pairs") is None:
            options["seed"] = self.seed.clone()
            self.seed += 1
        return fused_indeed_loss(features, weight, labels, bias=bias, **options)

    def extra_repr(self) -> str:
        """The options, after those of the classifier where there is one."""
        own = f"norm={self.norm!r}, lam={self.lam}, strategy={self.strategy!r}, reduction={self.reduction!r}"
        inherited = super().extra_repr()
        return f"{inherited}, {own}" if inherited else own


class INDeeDLoss(_LossSettings):
    """:func:`fused_indeed_loss` with its options held.

    ``loss(features, weight, labels, bias=None)``; keywords of the function given in a call override
    the options held. With an int ``seed`` the pairs of successive training calls are a repeatable
    sequence; with None they follow torch's default generator.
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
        seed: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            norm=norm, lam=lam, strategy=strategy, eps=eps, reduction=reduction, pos_weight=pos_weight, seed=seed, backend=backend
        )  # fmt: skip

    def forward(
        self, features: Tensor, weight: Tensor, labels: Labels, bias: Tensor | None = None, **overrides: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of features ``[B, n]`` under the classifier weight ``[C, n]`` and bias ``[C]``."""
        return self._loss(features, weight, labels, bias, **overrides)


class INDeeDHead(_LossSettings, nn.Linear):
    """A linear classifier that is an ``nn.Linear`` (same state_dict) and knows its training loss.

    ``head(x)`` gives logits ``[B, C]``; ``head(x, labels)`` the loss, so that the weight is used
    inside the wrapped forward of DDP, FSDP and torch.compile. Keywords of :func:`fused_indeed_loss`
    given with labels (``lam``, ``seed``, ``pairs``, ``return_components``, ...) override the options held.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        norm: str = "l2",
        lam: Lam = 1.0,
        strategy: str = "anchor",
        eps: float = 1e-12,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        seed: int | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, num_classes, bias, device=device, dtype=dtype)
        self._configure(
            norm=norm, lam=lam, strategy=strategy, eps=eps, reduction=reduction, pos_weight=pos_weight, seed=seed, backend=backend
        )  # fmt: skip

    def forward(self, x: Tensor, labels: Labels | None = None, **overrides: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of features ``x [B, n]``, or, given labels, the loss."""
        if labels is None:
            return nn.Linear.forward(self, x)
        return self._loss(x, self.weight, labels, self.bias, **overrides)
