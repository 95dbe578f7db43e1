"""The public functions: check the arguments once, choose a backend, run its operators."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from . import operators as operators_module
from . import reference
from .backends import LossSize, select
from .constants import DISPARATE_BLOCK, IDENTICAL_BLOCK, NORMS, REDUCTIONS, STRATEGIES
from .operators import FusedINDeeDLoss, IdenticalDisparate, SixWayBCE, label_words, native_node_for
from .validation import (
    Labels,
    check_eps,
    check_float,
    check_labels,
    check_lam,
    check_num_classes,
    check_pairs,
    check_pos_weight,
    check_same,
    check_seed,
    check_shape,
    check_strategy_fits,
    check_stray_bits,
    choice,
    is_packed,
)

Lam = float | Tensor | tuple[float | Tensor, float | Tensor]


def pack_labels(
    labels: Tensor, *, with_known: bool = False, backend: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Pack 0/1 labels into words of bits, class c at bit ``c % 32`` of word ``c // 32``.

    Args:
        labels: ``[B, C]``, bool, integer or float, in {-1, 0, 1}; -1 is unknown and counts as absent.
        with_known: also return the bits of classes that are known.
        backend: see :func:`fused_indeed_loss`.

    Returns:
        int32 ``[B, ceil(C / 32)]``, or a tuple of two such tensors (present, known).

    Raises:
        ValueError: wrong rank, or (CPU tensors) a value outside {-1, 0, 1}.
        TypeError: not a tensor of a supported dtype.
    """
    check_labels(_not_tuple(labels))
    operators = select(backend, labels.device)
    present, known = _pack(operators, labels)
    return (present, known) if with_known else present


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
        seed: an int or a 0-d int64 tensor; None draws one from ``generator`` or torch's default CPU generator.
            The same labels and seed give the same partners on every backend and machine.
        num_classes: C, needed only for packed labels.
        backend: see :func:`fused_indeed_loss`.

    Returns:
        int64 ``[B]``; ``partner[i] == i`` where there is no partner (the paper's default pair).

    Raises:
        ValueError, TypeError: bad labels, strategy, seed or backend, naming the argument.
    """
    check_num_classes(num_classes)
    check_labels(labels, num_classes)
    code = choice("strategy", strategy, STRATEGIES)
    present = labels[0] if isinstance(labels, tuple) else labels
    check_strategy_fits(code, present.shape[0])
    operators = select(backend, present.device)
    if is_packed(labels, num_classes):
        if num_classes is not None:
            check_stray_bits(present, num_classes)
    else:
        present, _ = _pack(operators, labels)
    return _mine(operators, present, strategy, code, _seed_tensor(seed, generator, present.device))


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
        _check_pair_values(pairs, features.shape[0])
        return reference.identical_disparate(features, pairs, norm=norm, eps=eps)
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
    rows = batch if pairs.dim() == 1 else 2 * pairs.shape[0]
    for name, value in (("identical_logits", identical_logits), ("disparate_logits", disparate_logits)):
        check_float(name, value, 2)
        check_shape(name, value, (rows, num_classes))
        check_same(name, value, "logits", logits)
    check_labels(labels, num_classes, batch)
    check_same("labels", labels[0] if isinstance(labels, tuple) else labels, "logits", logits, dtype=False)
    lams = check_lam(lam)
    reduction_code = choice("reduction", reduction, REDUCTIONS)
    check_pos_weight(pos_weight, num_classes, "logits", logits)
    operators = select(backend, logits.device)
    if operators is None:
        _check_pair_values(pairs, batch)
        plain = _plain_labels(labels, num_classes)
        return reference.six_way_bce(
            logits,
            identical_logits,
            disparate_logits,
            plain,
            pairs,
            lam=lams,
            reduction=reduction,
            pos_weight=pos_weight,
        )
    present, known = _label_words(operators, labels, num_classes)
    lam_tensor, blocks = _lam_tensor(lam, logits.device)
    loss, _ = SixWayBCE.apply(
        operators,
        logits,
        identical_logits,
        disparate_logits,
        present,
        known,
        pairs,
        lam_tensor,
        pos_weight,
        reduction_code,
        blocks,
    )
    return loss


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
            :func:`pack_labels` (int32 ``[B, ceil(C / 32)]``, or the tuple (present, known)).
        pairs: None to mine them; a partner vector ``[B]``; or a pair list ``[P, 2]``, each pair used both ways.
        strategy, seed, generator: how to mine, see :func:`mine_pairs`; unused when ``pairs`` is given.
        norm, eps: the identical map, see :func:`identical_disparate`.
        lam: weight of the identical and disparate terms: a number, a 0-d tensor, or a tuple
            (lam_identical, lam_disparate) of such. The number 0 leaves the block out of the computation.
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
    if (plain_loss := operators_module.plain_loss) is not None and not torch.compiler.is_dynamo_compiling():
        try:
            result = plain_loss(
                _kept_loss_settings, features, weight, labels, bias, pairs, strategy, norm, lam, eps, reduction,
                pos_weight, seed, generator, backend,
            )  # fmt: skip
        except _REFUSALS:
            result = None  # what follows says what is wrong in the terms of this function
        if result is not None:
            return result if return_components else result[0]
    features, weight, bias = _autocast(features, weight, bias)
    arguments: _LossArguments = (
        features, weight, labels, bias, pairs, strategy, norm, lam, eps, reduction, pos_weight, seed, generator
    )  # fmt: skip
    device = features.device if isinstance(features, Tensor) else torch.device("cpu")
    operators = select(backend, device, lambda: _loss_size(features, weight, pairs))
    refusal = None
    if operators is not None and not torch.compiler.is_compiling():
        try:
            result = _compiled_loss(operators, arguments)
            return result if return_components else result[0]
        except _REFUSALS as error:
            refusal = error
    # The operators refuse whatever is wrong, but only here is it said in the terms of this function.
    _check_loss_arguments(arguments)
    if refusal is not None:
        raise refusal
    result = _reference_loss(arguments) if operators is None else _compiled_loss(operators, arguments)
    return result if return_components else result[0]


#: What follows the backend in :func:`fused_indeed_loss`, in one order.
_LossArguments: TypeAlias = tuple[
    Tensor, Tensor, Labels, Tensor | None, Tensor | None, str, str, Lam, float, str, Tensor | None,
    int | Tensor | None, torch.Generator | None,
]  # fmt: skip


def _loss_size(features: Tensor, weight: Tensor, pairs: Tensor | None) -> LossSize:
    """Before any check: what has no such size is refused by every backend."""
    try:
        batch, width = features.shape
        rows = batch if pairs is None else pairs.numel()
        return LossSize(rows, width, weight.shape[0], features.dtype)
    except (AttributeError, IndexError, ValueError):
        return LossSize(0, 0, 0, torch.float64)


#: What operators and the preparation of their arguments raise.
_REFUSALS = (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def _check_loss_arguments(arguments: _LossArguments) -> None:
    features, weight, labels, bias, pairs, strategy, norm, lam, eps, reduction, pos_weight, *_ = arguments
    check_float("features", features, 2)
    check_float("weight", weight, 2)
    batch, width = features.shape
    num_classes = weight.shape[0]
    if weight.shape[1] != width:
        raise ValueError(f"weight: expected shape (C, {width}) to fit features, got {tuple(weight.shape)}")
    check_same("weight", weight, "features", features)
    if bias is not None:
        check_float("bias", bias, 1)
        check_shape("bias", bias, (num_classes,))
        check_same("bias", bias, "features", features)
    check_labels(labels, num_classes, batch)
    check_same("labels", labels[0] if isinstance(labels, tuple) else labels, "features", features, dtype=False)
    if pairs is not None:
        check_pairs(pairs, batch, "features", features)
    check_strategy_fits(choice("strategy", strategy, STRATEGIES), batch)
    choice("norm", norm, NORMS)
    check_lam(lam)
    check_eps(eps)
    choice("reduction", reduction, REDUCTIONS)
    check_pos_weight(pos_weight, num_classes, "features", features)


def _compiled_loss(operators: Any, arguments: _LossArguments) -> tuple[Tensor, Tensor]:
    """(loss, components); checks here are those the operators cannot make."""
    features, weight, labels, bias, pairs, strategy, norm, lam, eps, reduction, pos_weight, seed, generator = arguments
    batch, num_classes, device = features.shape[0], weight.shape[0], features.device
    packed, known = is_packed(labels, num_classes), None
    if isinstance(labels, tuple):
        check_labels(labels, num_classes, batch)
        labels, known = labels
    if not (weight.device == device == labels.device and (bias is None or bias.device == device)):
        for name, value in (("weight", weight), ("bias", bias), ("labels", labels)):
            if value is not None:
                check_same(name, value, "features", features, dtype=False)
    lam_tensor, settings = _loss_settings(strategy, norm, lam, eps, reduction, device)
    if pairs is None:
        check_strategy_fits(settings[0], batch)
    else:
        pairs = check_pairs(pairs, batch, "features", features)
    if pos_weight is not None:
        check_pos_weight(pos_weight, num_classes, "features", features)
    node = native_node_for(operators, settings[3])
    if node is not None:
        seed = None if seed is None or pairs is not None else _seed_tensor(seed, None, device)
        return node(
            features, weight, bias, labels, known, packed, pairs, seed, generator, lam_tensor, pos_weight, *settings
        )
    seed = _seed_tensor(seed, generator, device) if pairs is None else None
    rest = (labels, known, packed, pairs, seed, lam_tensor, pos_weight, *settings)
    inputs = (features, weight, bias)
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs):
        return FusedINDeeDLoss.apply(operators, *inputs, *rest)
    loss, components, *_ = operators.indeed_loss.default(*inputs, *rest, 0)
    return loss, components


def _loss_settings(
    strategy: str, norm: str, lam: Lam, eps: float, reduction: str, device: torch.device
) -> tuple[Tensor, tuple[int, int, float, int, int]]:
    """(lam ``[2]``, (strategy, norm, eps, reduction, blocks)) as the operators take them."""
    # By type, as True == 1: what is kept for the number must not let the bool pass.
    if type(lam) in (float, int) and not torch.compiler.is_compiling():
        return _kept_loss_settings(strategy, norm, lam, eps, reduction, device)
    lam_tensor, blocks = _lam_tensor(lam, device)
    codes = STRATEGIES[strategy], NORMS[norm], check_eps(eps), REDUCTIONS[reduction], blocks
    return lam_tensor, codes


@lru_cache(maxsize=64, typed=True)
def _kept_loss_settings(
    strategy: str, norm: str, lam: float, eps: float, reduction: str, device: torch.device
) -> tuple[Tensor, tuple[int, int, float, int, int]]:
    lam_tensor, blocks = _lam_tensor(lam, device)
    return lam_tensor, (STRATEGIES[strategy], NORMS[norm], check_eps(eps), REDUCTIONS[reduction], blocks)


def _reference_loss(arguments: _LossArguments) -> tuple[Tensor, Tensor]:
    """(loss, components)."""
    features, weight, labels, bias, pairs, strategy, norm, lam, eps, reduction, pos_weight, seed, generator = arguments
    plain = _plain_labels(labels, weight.shape[0])
    if pairs is None:
        seed = _seed_tensor(seed, generator, features.device)
    else:
        pairs = pairs.to(torch.int64)
        _check_pair_values(pairs, features.shape[0])
    return reference.fused_indeed_loss(
        features, weight, plain, bias=bias, pairs=pairs, strategy=strategy, norm=norm, lam=check_lam(lam), eps=eps,
        reduction=reduction, pos_weight=pos_weight, seed=seed, return_components=True,
    )  # fmt: skip


# --------------------------------------------------------------------- preparation


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What ``torch.autocast`` does to the inputs of a linear layer."""
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


def _not_tuple(labels: Tensor) -> Tensor:
    if isinstance(labels, tuple):
        raise TypeError("labels: expected a tensor of labels, got a tuple (they are packed already)")
    return labels


def _pack(operators: Any | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    if operators is not None:
        return operators.pack_labels(labels)
    _check_label_values(labels)
    return reference.pack_labels(labels, with_known=True)


def _label_words(operators: Any, labels: Labels, num_classes: int) -> tuple[Tensor, Tensor | None]:
    """Present bits, and known bits where some class may be unknown."""
    packed = is_packed(labels, num_classes)
    present, known = labels if isinstance(labels, tuple) else (labels, None)
    if packed:
        check_stray_bits(present, num_classes)
    return label_words(operators, present, known, packed)


def _plain_labels(labels: Labels, num_classes: int) -> Tensor:
    """Labels ``[B, C]`` in {-1, 0, 1} for the reference."""
    if not is_packed(labels, num_classes):
        _check_label_values(labels)
        return labels
    present, known = labels if isinstance(labels, tuple) else (labels, None)
    check_stray_bits(present, num_classes)
    plain = reference.unpack_labels(present, num_classes).to(torch.int64)
    return plain if known is None else plain.masked_fill(~reference.unpack_labels(known, num_classes), -1)


def _mine(operators: Any | None, present: Tensor, strategy: str, code: int, seed: Tensor) -> Tensor:
    if operators is not None:
        return operators.mine_pairs(present, seed, code)
    plain = reference.unpack_labels(present, present.shape[1] * reference.WORD_BITS)
    return reference.mine_pairs(plain, strategy=strategy, seed=seed)


def _seed_tensor(seed: int | Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if seed is None:
        seed = torch.randint(2**63 - 1, (), generator=generator)
    else:
        check_seed(seed)
        if not isinstance(seed, Tensor):
            seed = torch.tensor(seed, dtype=torch.int64)
    return seed if seed.device == device else seed.to(device, non_blocking=True)


def _lam_tensor(lam: Lam, device: torch.device) -> tuple[Tensor, int]:
    """(float64 ``[2]`` on the device, bits of the blocks that take part): only a Python 0 is known to leave one out."""
    constant = _constant_lam.__wrapped__ if torch.compiler.is_compiling() else _constant_lam
    if type(lam) is float:
        return constant(lam, lam, device)
    lams = check_lam(lam)
    if not any(isinstance(part, Tensor) for part in lams):
        return constant(*map(float, lams), device)
    parts = [torch.as_tensor(part, dtype=torch.float64, device=device) for part in lams]
    return torch.stack(parts), _blocks(lams)


@lru_cache(maxsize=16)
def _constant_lam(lam_identical: float, lam_disparate: float, device: torch.device) -> tuple[Tensor, int]:
    """:func:`_lam_tensor`, kept for the next call; never an inference tensor, which autograd cannot save."""
    lams = check_lam((lam_identical, lam_disparate))
    with torch.inference_mode(False):
        return torch.tensor(lams, dtype=torch.float64).to(device, non_blocking=True), _blocks(lams)


def _blocks(lams: tuple[float | Tensor, float | Tensor]) -> int:
    bits = zip(lams, (IDENTICAL_BLOCK, DISPARATE_BLOCK), strict=True)
    return sum(bit for lam, bit in bits if isinstance(lam, Tensor) or lam != 0)


def _check_label_values(labels: Tensor) -> None:
    """Values on the host only, so that a GPU is not synchronised."""
    if labels.device.type == "cpu" and labels.dtype != torch.bool and not torch.compiler.is_compiling():
        valid = (labels == 0) | (labels == 1)
        if labels.dtype != torch.uint8:  # to which -1 is 255
            valid |= labels == -1
        if not valid.all():
            raise ValueError(f"labels: expected values in {{-1, 0, 1}}, got {labels[~valid][0].item()}")


def _check_pair_values(pairs: Tensor, batch: int) -> None:
    if pairs.device.type == "cpu" and not torch.compiler.is_compiling() and ((pairs < 0) | (pairs >= batch)).any():
        raise ValueError(f"pairs: expected indices in [0, {batch}), got {pairs.min().item()} to {pairs.max().item()}")
