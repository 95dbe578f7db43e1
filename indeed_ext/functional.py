"""The public functions: check the arguments, choose a backend, run its operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import autograd, reference_backend
from .autograd import IdenticalDisparate, LossOptions, SixWayBCE
from .backends import select
from .constants import DISPARATE_TERM, IDENTICAL_TERM, NORMS, REDUCTIONS, STRATEGIES
from .operators import row_count
from .seeds import draw_seed
from .validation import (
    Labels,
    Lam,
    check_eps,
    check_float,
    check_labels,
    check_lam,
    check_loss,
    check_num_classes,
    check_pairs,
    check_pos_weight,
    check_same,
    check_seed,
    check_shape,
    check_strategy_fits,
    choice,
    packed_bits,
)


def pack_labels(
    labels: Tensor, *, with_known: bool = False, backend: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Pack 0/1 labels into words of bits, class c at bit ``c % 32`` of word ``c // 32``.

    Args:
        labels: ``[B, C]``, bool, integer or float, in {-1, 0, 1}; -1 is unknown and counts as absent.
        with_known: also return the bits of classes that are valid, that is not unknown.
        backend: see :func:`fused_indeed_loss`.

    Returns:
        int32 ``[B, ceil(C / 32)]``, or a tuple of two such tensors (positive, valid).

    Raises:
        ValueError: wrong rank, or (CPU tensors) a value outside {-1, 0, 1}. On a GPU, where looking would synchronise,
            such a class is positive and yet not valid, which makes every loss of its sample NaN.
        TypeError: not a tensor of a supported dtype.
    """
    if isinstance(labels, tuple):
        raise TypeError("labels: expected a tensor of labels, got a tuple (they are packed already)")
    check_labels(labels)
    positive, valid = _pack(select(backend, labels.device), labels)
    return (positive, valid) if with_known else positive


def mine_pairs(
    labels: Labels,
    *,
    strategy: str = "anchor",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Choose a partner for every sample among those that share a label without having equal label sets.

    Args:
        labels: ``[B, C]`` as :func:`pack_labels` takes them, or already packed words (then give ``num_classes``).
        strategy: ``"anchor"`` draws a compatible partner for every sample, with replacement; ``"matching"`` is a
            random maximal matching (disjoint pairs); ``"balanced"`` a matching that favours samples with few
            compatible partners.
        seed: an int or a 0-d int64 tensor; None draws one from ``generator`` or torch's default generator of the
            device. The same labels and seed give the same partners on every backend and machine.
        num_classes: C, needed only for packed labels.
        backend: see :func:`fused_indeed_loss`.

    Returns:
        int64 ``[B]``; ``partner[i] == i`` where there is no partner (the paper's default pair).

    Raises:
        ValueError, TypeError: bad labels, strategy, seed or backend, naming the argument.
    """
    check_num_classes(num_classes)
    check_labels(labels, num_classes)
    check_seed(seed)
    code = choice("strategy", strategy, STRATEGIES)
    words = labels[0] if isinstance(labels, tuple) else labels
    check_strategy_fits(code, words.shape[0])
    operators = select(backend, words.device)
    words, _ = _label_bits(operators, labels, num_classes)
    seed = draw_seed(seed, generator, words.device)
    if operators is None:
        return reference_backend.mine_pairs(words, seed, strategy)
    return operators.mine_pairs.default(words, seed, code)


def identical_disparate(
    features: Tensor, pairs: Tensor, *, norm: str = "l2", eps: float = 1e-12, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The identical and disparate features of every row, eqs. (3) to (5): ``m * f`` and ``(1 - m) * f``.

    Args:
        features: ``[B, n]`` float32, float64, bfloat16 or float16.
        pairs: a partner vector ``[B]`` (rows (i, partner[i])) or a pair list ``[P, 2]``
            (all rows (a, b), then all rows (b, a)), integers in [0, B).
        norm: ``"l2"``, eq. (3), or ``"minmax"``, eq. (4).
        eps: rows whose product has a norm (range) of at most ``eps`` get ``m = 0``.
        backend: see :func:`fused_indeed_loss`.

    Returns:
        (identical, disparate), each ``[R, n]`` in the dtype of ``features``; R is B or 2P.

    Raises:
        ValueError, TypeError: a bad argument, named.
    """
    check_float("features", features, 2)
    pairs = check_pairs(pairs, features.shape[0], "features", features)
    norm_code = choice("norm", norm, NORMS)
    eps = check_eps(eps)
    operators = select(backend, features.device)
    if operators is None:
        return reference_backend.identical_disparate(features, pairs, norm=norm, eps=eps)
    return IdenticalDisparate.apply(operators, features, pairs, norm_code, eps)


def six_way_bce(
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    labels: Labels,
    pairs: Tensor,
    *,
    lam: Lam = 1.0,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The loss of eqs. (6) to (9) from the logits of any classifier, with the targets of eq. (11).

    Args:
        logits: ``[B, C]`` of the features; identical_logits, disparate_logits: ``[R, C]`` of the rows.
        labels, pairs, lam, reduction, pos_weight, backend: see :func:`fused_indeed_loss`.

    Returns:
        The loss, 0-d, or ``[R]`` with ``reduction="none"``; float32 for half types.

    Raises:
        ValueError, TypeError: a bad argument, named.
    """
    check_float("logits", logits, 2)
    batch, num_classes = logits.shape
    pairs = check_pairs(pairs, batch, "logits", logits)
    for name, value in (("identical_logits", identical_logits), ("disparate_logits", disparate_logits)):
        check_float(name, value, 2)
        check_shape(name, value, (row_count(pairs), num_classes))
        check_same(name, value, "logits", logits)
    check_labels(labels, num_classes, batch)
    check_same("labels", labels[0] if isinstance(labels, tuple) else labels, "logits", logits, dtype=False)
    lams = check_lam(lam)
    reduction_code = choice("reduction", reduction, REDUCTIONS)
    check_pos_weight(pos_weight, num_classes, "logits", logits)
    rows = (logits, identical_logits, disparate_logits)
    operators = select(backend, logits.device)
    if operators is None:
        return reference_backend.six_way_bce(*rows, labels, pairs, lam=lams, reduction=reduction, pos_weight=pos_weight)
    numbers, lam_tensor, term_mask = _loss_weights(lams, logits.device)
    options = LossOptions(*numbers, reduction_code, term_mask)
    bits = _label_bits(operators, labels, num_classes)
    return SixWayBCE.apply(operators, *rows, *bits, pairs, lam_tensor, pos_weight, options)


def fused_indeed_loss(
    features: Tensor,
    weight: Tensor,
    labels: Labels,
    *,
    bias: Tensor | None = None,
    pairs: Tensor | None = None,
    strategy: str = "anchor",
    norm: str = "l2",
    lam: Lam = 1.0,
    eps: float = 1e-12,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
    return_components: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The INDeeD loss of a linear classifier: mining, blocks, classifier and six cross-entropies in one call.

    ``L = L_O + lam * (L_I + L_D)``, eqs. (6) to (11), summed over classes, over directed rows (i, j).

    Args:
        features: ``[B, n]`` pooled features, float32, float64, bfloat16 or float16 (non-negative in the paper).
        weight: ``[C, n]``, bias: ``[C]`` or None: the classifier, in the dtype of ``features`` (under
            ``torch.autocast`` all three are cast as ``nn.Linear`` would).
        labels: ``[B, C]`` bool, integer or float in {-1, 0, 1}, -1 meaning unknown; or words from
            :func:`pack_labels` (int32 ``[B, ceil(C / 32)]``, or the tuple (positive, valid)).
        pairs: None to mine them; a partner vector ``[B]``; or a pair list ``[P, 2]``, each pair used both ways.
        strategy, seed, generator: how to mine, see :func:`mine_pairs`; unused when ``pairs`` is given.
        norm, eps: the identical map, see :func:`identical_disparate`.
        lam: weight of the identical and disparate terms: a number, a 0-d tensor, or a tuple
            (lam_identical, lam_disparate) of such. The number 0 leaves the term out of the computation.
        reduction: ``"mean"`` over rows, ``"sum"``, or ``"none"`` for one value per row.
        pos_weight: ``[C]`` weights of the positive terms, as in ``binary_cross_entropy_with_logits``.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``; None follows the environment variable
            ``INDEED_BACKEND``, else the device.
        return_components: also return the detached, unweighted (L_O, L_I, L_D), reduced like the loss
            (for ``"none"``, summed).

    Returns:
        The loss, 0-d, or ``[R]`` with ``reduction="none"``; float32 for half types. With
        ``return_components``, a tuple (loss, components ``[3]``).

    Raises:
        ValueError, TypeError: a bad argument, named, before any work.
        RuntimeError: on differentiating twice; the ``"reference"`` backend can.
    """
    features, weight, bias = _autocast(features, weight, bias)
    pairs = check_loss(features, weight, labels, bias, pairs, pos_weight)
    batch, num_classes, device = features.shape[0], weight.shape[0], features.device
    strategy_code = choice("strategy", strategy, STRATEGIES)
    check_strategy_fits(strategy_code, batch)
    check_seed(seed)
    lams = check_lam(lam)
    norm_code, reduction_code = choice("norm", norm, NORMS), choice("reduction", reduction, REDUCTIONS)
    eps = check_eps(eps)
    operators = select(backend, device)
    if operators is None:
        plain = reference_backend.plain_labels(labels, num_classes)
        result = reference_backend.fused_indeed_loss(
            features, weight, plain, bias=bias, pairs=pairs, strategy=strategy, norm=norm, lam=lams, eps=eps,
            reduction=reduction, pos_weight=pos_weight,
            seed=draw_seed(seed, generator, device) if pairs is None else None,
        )  # fmt: skip
        return result if return_components else result[0]
    numbers, lam_tensor, term_mask = _loss_weights(lams, device)
    options = LossOptions(*numbers, reduction_code, term_mask, norm_code, eps)
    # The labels are looked at before a seed is drawn: a call that is refused draws nothing.
    positive_bits, valid_bits = _label_bits(operators, labels, num_classes)
    if pairs is None:
        pairs = operators.mine_pairs.default(positive_bits, draw_seed(seed, generator, device), strategy_code)
    result = autograd.fused_indeed_loss(
        operators, features, weight, bias, positive_bits, valid_bits, pairs, lam_tensor, pos_weight, options
    )
    return result if return_components else result[0]


# --------------------------------------------------------------------- preparation


def _autocast(*tensors: Any) -> tuple[Any, ...]:
    """The inputs of a linear layer as ``torch.autocast`` casts them."""
    first = tensors[0]
    on_cpu = not isinstance(first, Tensor) or first.is_cpu
    device_type = "cpu" if on_cpu else first.device.type
    if not (on_cpu or torch.amp.is_autocast_available(device_type)) or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(
        t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def _pack(operators: Any | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    return reference_backend.pack_labels(labels) if operators is None else operators.pack_labels.default(labels)


def _label_bits(operators: Any | None, labels: Labels, num_classes: int | None) -> tuple[Tensor, Tensor | None]:
    """Positive bits, and valid bits where some class may be unknown or hold no label."""
    bits = packed_bits(labels, num_classes)
    if bits is not None:
        return bits
    assert isinstance(labels, Tensor)
    positive, valid = _pack(operators, labels)
    return positive, None if labels.dtype == torch.bool else valid


def _loss_weights(
    lams: tuple[float | Tensor, float | Tensor], device: torch.device
) -> tuple[tuple[float, float], Tensor | None, int]:
    """(numbers, float64 ``[2]`` in their place or None, mask of the terms): only the number 0 leaves a term out."""
    identical, disparate = lams
    term_mask = IDENTICAL_TERM * _takes_part(identical) + DISPARATE_TERM * _takes_part(disparate)
    if not torch.compiler.is_compiling():  # what the host knows goes to the kernel by value, not by a copy
        identical, disparate = _number(identical), _number(disparate)
    if not (isinstance(identical, Tensor) or isinstance(disparate, Tensor)):
        return (float(identical), float(disparate)), None, term_mask
    both = (torch.as_tensor(lam, dtype=torch.float64, device=device) for lam in (identical, disparate))
    return (0.0, 0.0), torch.stack([*both]), term_mask


def _takes_part(lam: float | Tensor) -> bool:
    return isinstance(lam, Tensor) or lam != 0


def _number(lam: float | Tensor) -> float | Tensor:
    return lam.item() if isinstance(lam, Tensor) and lam.is_cpu else lam
