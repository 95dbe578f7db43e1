"""Argument checks shared by every public function: each raises before any work and names the argument."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .constants import FLOAT_DTYPES, INTEGER_DTYPES, LABEL_DTYPES, MAX_BALANCED_BATCH, STRATEGIES, WORD_BITS, cdiv

Labels = Tensor | tuple[Tensor, Tensor]
Lam = float | Tensor | tuple[float | Tensor, float | Tensor]


def check_tensor(name: str, value: object, rank: int) -> None:
    """``value`` is a strided tensor of the given rank."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dim() != rank:
        raise ValueError(f"{name}: expected {rank} dimension(s), got shape {tuple(value.shape)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")


def check_float(name: str, value: Tensor, rank: int) -> None:
    """``value`` is a float32, float64, bfloat16 or float16 tensor of the given rank."""
    check_tensor(name, value, rank)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {value.dtype}")


def check_same(name: str, value: Tensor, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """``value`` has the device (and dtype) of ``other``."""
    if value.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} as {other_name} has, got {value.device}")
    if dtype and value.dtype != other.dtype:
        raise TypeError(
            f"{name}: expected {other.dtype} as {other_name} has, got {value.dtype} "
            "(cast one of them, or run under torch.autocast)"
        )


def check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """``value`` has exactly this shape."""
    if tuple(value.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")


def choice(name: str, value: object, table: Mapping[str, int]) -> int:
    """The integer ``table`` gives for ``value``."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, one of {sorted(table)}, got {type(value).__name__}")
    if value not in table:
        raise ValueError(f"{name}: expected one of {sorted(table)}, got {value!r}")
    return table[value]


def check_strategy_fits(strategy: int, batch: int) -> None:
    """Edge costs of the balanced strategy must stay within 64 bits."""
    if strategy == STRATEGIES["balanced"] and batch > MAX_BALANCED_BATCH:
        raise ValueError(f"strategy: 'balanced' takes at most {MAX_BALANCED_BATCH} samples, got {batch}")


def check_eps(eps: object) -> float:
    """``eps`` is a non-negative number."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    if not eps >= 0 or math.isinf(eps):
        raise ValueError(f"eps: expected a finite number of at least 0, got {eps}")
    return float(eps)


def check_lam(lam: object) -> tuple[float | Tensor, float | Tensor]:
    """(lam_identical, lam_disparate): each a finite non-negative number or a 0-d tensor without gradient."""
    parts = lam if isinstance(lam, tuple) else (lam, lam)
    if len(parts) != 2:
        raise ValueError(f"lam: expected one value or a tuple (lam_identical, lam_disparate), got {len(parts)} values")
    for part in parts:
        if isinstance(part, Tensor):
            if part.dim() != 0:
                raise ValueError(f"lam: expected a 0-d tensor, got shape {tuple(part.shape)}")
            if part.requires_grad:
                raise ValueError("lam: no gradient is computed for it; pass lam.detach()")
            if _on_host(part) and not 0 <= part.item() < math.inf:
                raise ValueError(f"lam: expected a finite number of at least 0, got {part.item()}")
        elif isinstance(part, bool) or not isinstance(part, (int, float)):
            raise TypeError(f"lam: expected a number or a 0-d tensor, got {type(part).__name__}")
        elif not 0 <= part < math.inf:
            raise ValueError(f"lam: expected a finite number of at least 0, got {part}")
    return parts


def check_seed(seed: object) -> None:
    """``seed`` is None, a 64-bit int or a 0-d int64 tensor."""
    if seed is None:
        return
    if isinstance(seed, Tensor):
        check_tensor("seed", seed, 0)
        if seed.dtype != torch.int64:
            raise TypeError(f"seed: expected an int or a 0-d int64 tensor, got {seed.dtype}")
    elif isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int or a 0-d int64 tensor, got {type(seed).__name__}")
    elif not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: expected a 64-bit integer, got {seed}")


def check_num_classes(num_classes: object) -> None:
    """``num_classes`` is None or a positive int."""
    if num_classes is None:
        return
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes: expected an int, got {type(num_classes).__name__}")
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")


def check_pos_weight(pos_weight: Tensor | None, num_classes: int, like_name: str, like: Tensor) -> None:
    """``pos_weight`` is None or a float tensor ``[C]`` without gradient on the right device."""
    if pos_weight is None:
        return
    check_float("pos_weight", pos_weight, 1)
    check_shape("pos_weight", pos_weight, (num_classes,))
    check_same("pos_weight", pos_weight, like_name, like, dtype=False)
    if pos_weight.requires_grad:
        raise ValueError("pos_weight: no gradient is computed for it; pass pos_weight.detach()")


def check_pairs(pairs: Tensor, batch: int, like_name: str, like: Tensor) -> Tensor:
    """A partner vector ``[B]`` or a pair list ``[P, 2]`` as int64; indices themselves are checked by the operators."""
    if not isinstance(pairs, Tensor):
        raise TypeError(f"pairs: expected a tensor, got {type(pairs).__name__}")
    if pairs.dtype not in INTEGER_DTYPES:
        raise TypeError(f"pairs: expected an integer tensor, got {pairs.dtype}")
    if pairs.dim() == 1:
        if pairs.shape[0] != batch:
            raise ValueError(
                f"pairs: expected a partner vector of {batch} entries, one per sample, got {pairs.shape[0]}"
            )
    elif pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs: expected shape ({batch},) or (P, 2), got {tuple(pairs.shape)}")
    check_same("pairs", pairs, like_name, like, dtype=False)
    return pairs.to(torch.int64)


def check_labels(labels: Labels, num_classes: int | None = None, batch: int | None = None) -> None:
    """Labels ``[B, C]``, packed words ``[B, ceil(C / 32)]``, or a tuple (positive, valid) of such words."""
    if isinstance(labels, tuple):
        if len(labels) != 2:
            raise ValueError(f"labels: expected a tensor or a tuple (positive, valid), got a tuple of {len(labels)}")
        for words in labels:
            check_tensor("labels", words, 2)
            if words.dtype != torch.int32:
                raise TypeError(f"labels: expected int32 words in (positive, valid), got {words.dtype}")
        check_same("labels", labels[1], "its positive bits", labels[0])
        check_shape("labels", labels[1], tuple(labels[0].shape))
        if num_classes is not None and not _packed_width(labels[0], num_classes):
            raise ValueError(_width_message(labels[0], num_classes))
        rows = labels[0].shape[0]
    else:
        check_tensor("labels", labels, 2)
        if labels.dtype not in LABEL_DTYPES:
            raise TypeError(f"labels: expected bool, integer or float labels, got {labels.dtype}")
        if num_classes is not None and labels.shape[1] != num_classes and not is_packed(labels, num_classes):
            raise ValueError(_width_message(labels, num_classes))
        rows = labels.shape[0]
    if batch is not None and rows != batch:
        raise ValueError(f"labels: expected {batch} rows, one per sample, got {rows}")


def is_packed(labels: Labels, num_classes: int | None) -> bool:
    """Whether ``labels`` already are words of bits; an int32 ``[B, C]`` is taken as plain labels."""
    if isinstance(labels, tuple):
        return True
    if num_classes is None or labels.dtype != torch.int32 or labels.shape[1] == num_classes:
        return False
    return _packed_width(labels, num_classes)


def packed_bits(labels: Labels, num_classes: int | None) -> tuple[Tensor, Tensor | None] | None:
    """(positive, valid) words where ``labels`` are packed, None where they are plain.

    Words hold labels: no bit beyond class C is set, no class is positive and yet not valid.
    """
    if isinstance(labels, Tensor):
        if not is_packed(labels, num_classes):
            return None
        positive, valid = labels, None
    else:
        positive, valid = labels
    if _on_host(positive):
        used = (num_classes or 0) % WORD_BITS
        if used and (positive[:, -1] >> used).any():
            raise ValueError(f"labels: packed words have bits set beyond their {num_classes} classes")
        if valid is not None and (positive & ~valid).any():
            raise ValueError("labels: packed words have a class that is positive and yet not valid")
    return positive, valid


def check_label_values(labels: Tensor) -> None:
    """Plain labels are -1 (unknown), 0 or 1."""
    if not _on_host(labels) or labels.dtype == torch.bool:
        return
    valid = (labels == 0) | (labels == 1)
    if labels.dtype != torch.uint8:  # to which -1 is 255
        valid |= labels == -1
    if not valid.all():
        raise ValueError(f"labels: expected values in {{-1, 0, 1}}, got {labels[~valid][0].item()}")


def check_pair_values(pairs: Tensor, batch: int) -> None:
    """Indices lie in the batch."""
    if _on_host(pairs) and ((pairs < 0) | (pairs >= batch)).any():
        raise ValueError(f"pairs: expected indices in [0, {batch}), got {pairs.min().item()} to {pairs.max().item()}")


def check_loss(
    features: Tensor,
    weight: Tensor,
    labels: Labels,
    bias: Tensor | None,
    pairs: Tensor | None,
    pos_weight: Tensor | None,
) -> Tensor | None:
    """The tensors of the fused loss fit each other; ``pairs`` as int64."""
    check_float("features", features, 2)
    check_float("weight", weight, 2)
    (batch, width), num_classes = features.shape, weight.shape[0]
    if weight.shape[1] != width:
        raise ValueError(f"weight: expected shape (C, {width}) to fit features, got {tuple(weight.shape)}")
    check_same("weight", weight, "features", features)
    if bias is not None:
        check_float("bias", bias, 1)
        check_shape("bias", bias, (num_classes,))
        check_same("bias", bias, "features", features)
    check_labels(labels, num_classes, batch)
    check_same("labels", labels[0] if isinstance(labels, tuple) else labels, "features", features, dtype=False)
    check_pos_weight(pos_weight, num_classes, "features", features)
    return None if pairs is None else check_pairs(pairs, batch, "features", features)


def _on_host(tensor: Tensor) -> bool:
    """Whether values can be looked at: on a GPU that would synchronise, and a traced tensor has none."""
    return tensor.is_cpu and not torch.compiler.is_compiling()


def _packed_width(words: Tensor, num_classes: int) -> bool:
    return words.shape[1] == cdiv(num_classes, WORD_BITS)


def _width_message(labels: Tensor, num_classes: int) -> str:
    words = cdiv(num_classes, WORD_BITS)
    return (
        f"labels: expected {num_classes} columns (one per class) or {words} int32 words, "
        f"got shape {tuple(labels.shape)} of {labels.dtype}"
    )
