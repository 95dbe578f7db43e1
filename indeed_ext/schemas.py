"""The schemas of the operators, the same in every dispatcher namespace: the one place that states them.

``csrc/operators`` and ``triton_kernels`` implement them in this order of arguments; :mod:`.operators` describes their
results to torch.compile and :mod:`.autograd` their gradients.
"""

from __future__ import annotations

#: int32 words of label bits: positive, and valid where some class may be unknown or hold no label at all.
_BITS = "Tensor positive_bits, Tensor? valid_bits"
#: Weights of the identical and the disparate term; the tensor, float64 [2], takes their place where it is given.
_LAM = "float lam_identical, float lam_disparate, Tensor? lam"
_SIX_WAY = (
    f"Tensor logits, Tensor identical_logits, Tensor disparate_logits, {_BITS}, Tensor pairs, {_LAM}, "
    "Tensor? pos_weight, int reduction, int term_mask"
)

SCHEMAS = {
    "pack_labels": "(Tensor labels) -> (Tensor, Tensor)",
    "mine_pairs": "(Tensor positive_bits, Tensor seed, int strategy) -> Tensor",
    "identical_disparate": "(Tensor features, Tensor pairs, int norm, float eps) -> (Tensor, Tensor)",
    "identical_disparate_backward": (
        "(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs, int norm, float eps) -> Tensor"
    ),
    "six_way_bce": f"({_SIX_WAY}) -> (Tensor, Tensor)",
    "six_way_bce_backward": f"(Tensor grad_loss, {_SIX_WAY}) -> (Tensor, Tensor, Tensor)",
    "fused_indeed_loss": (
        f"(Tensor features, Tensor weight, Tensor? bias, {_BITS}, Tensor pairs, {_LAM}, Tensor? pos_weight, "
        "Tensor? row_weight, int norm, float eps, int reduction, int term_mask, int output_mask) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "scale_gradients": "(Tensor(a!) features, Tensor(b!) weight, Tensor(c!) bias, Tensor scale) -> ()",
}
