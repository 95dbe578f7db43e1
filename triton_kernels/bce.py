"""Binary cross-entropy with logits, eq. (10), and its derivative; the arithmetic of ``csrc/common/bce.h``.

With y = -x for a positive target and y = x for a negative one, both are functions of y alone:
value = w softplus(y), d value / dx = +-w sigmoid(y), w = pos_weight for positives, else 1.
"""

import triton.language as tl

from .jit import device_function


@device_function
def _log1p_unit(e):
    """log(1 + e) for e in [0, 1]."""
    if e.dtype == tl.float64:
        # What rounding 1 + e loses is restored by the quotient.
        above = 1.0 + e
        lost = above == 1.0
        return tl.where(lost, e, tl.log(above) * (e / tl.where(lost, 1.0, above - 1.0)))
    else:
        # 2 atanh(e / (2 + e)), whose series needs eight terms at e = 1.
        s = e / (2.0 + e)
        z = s * s
        p = z * 0.06666666666666667 + 0.07692307692307693
        p = p * z + 0.09090909090909091
        p = p * z + 0.1111111111111111
        p = p * z + 0.14285714285714285
        p = p * z + 0.2
        p = p * z + 0.3333333333333333
        p = p * z + 1.0
        return 2.0 * s * p


@device_function
def bce_term(logit, positive, validity, positive_weight):
    """(value, derivative) of every class, times its ``validity`` (:mod:`.rows`); zero where that is, whatever the
    logit."""
    y = tl.where(positive, -logit, logit)
    e = tl.exp(-tl.abs(y))
    reciprocal = 1.0 / (1.0 + e)
    sigmoid = tl.where(y < 0, e * reciprocal, reciprocal)
    # A NaN is not less than zero, and so stays.
    softplus = tl.where(y < 0, 0.0, y) + _log1p_unit(e)
    # An infinite logit gives what PyTorch's formula gives: NaN, except +inf of a negative target.
    softplus += 0.0 * tl.where(positive | (logit < 0), logit, 0.0)
    weight = validity * tl.where(positive, positive_weight, 1.0)
    derivative = weight * sigmoid
    unknown = validity == 0
    value = tl.where(unknown, 0.0, weight * softplus)
    return value, tl.where(unknown, 0.0, tl.where(positive, -derivative, derivative))
