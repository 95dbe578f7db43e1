"""The loss as modules: :class:`INDeeDLoss` beside a classifier, :class:`INDeeDHead` in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .constants import NORMS, REDUCTIONS, STRATEGIES
from .functional import fused_indeed_loss
from .seeds import SeedSequence
from .validation import Labels, Lam, check_eps, check_lam, check_seed, choice


class INDeeDLoss(nn.Module):
    """:func:`fused_indeed_loss` with its options held: ``loss(features, weight, labels, bias=None)``.

    Keywords of the function given in a call override the options held. With an int ``seed`` the pairs of
    successive training calls are a repeatable sequence, advancing by one a call, but for a forward that
    ``torch.utils.checkpoint`` runs again; with None they follow torch's default generator. Neither the
    sequence nor ``pos_weight`` and ``lam`` are part of the state_dict; all move with the module.
    """

    seed: Tensor | None

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
        check_seed(seed)
        held = None if seed is None else torch.as_tensor(seed, dtype=torch.int64).clone()
        self.register_buffer("seed", held, persistent=False)
        self._seeds = SeedSequence()

    def forward(
        self, features: Tensor, weight: Tensor, labels: Labels, bias: Tensor | None = None, **overrides: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of features ``[B, n]`` under the classifier weight ``[C, n]`` and bias ``[C]``."""
        held = ("norm", "lam", "strategy", "eps", "reduction", "pos_weight", "backend")
        options = {name: getattr(self, name) for name in held}
        if overrides.get("pairs") is None and overrides.get("seed") is None:
            seed = self.seed
            options["seed"] = self._seeds.next(seed, labels) if seed is not None and self.training else seed
        options.update((name, value) for name, value in overrides.items() if value is not None)
        return fused_indeed_loss(features, weight, labels, bias=bias, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        # Tensors in ``lam`` move with the module, as buffers do, and keep their precision.
        self.lam = tree_map_only(Tensor, lambda lam: lam.to(fn(lam).device), self.lam)
        return super()._apply(fn, recurse)

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

    def forward(  # type: ignore[override]  # nn.Linear returns a tensor, whatever it is given
        self, x: Tensor, labels: Labels | None = None, **overrides: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``[B, C]`` of features ``x [B, n]``, or, given labels, the loss (keywords override the options)."""
        if labels is None:
            return super().forward(x)
        return self.criterion(x, self.weight, labels, self.bias, **overrides)
