// Binary cross-entropy with logits, eq. (10), and its derivative, in a form that compilers vectorise.
//
// With y = -x for a positive target and y = x for a negative one, both are functions of y alone:
//   value = w * softplus(y),   d value / dx = +-w * sigmoid(y),   w = pos_weight for positives, else 1.
// A logit that overflowed must show: like PyTorch's, the value is NaN where 0 * infinity stands in max(x, 0) - x t.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace indeed {

template <typename T>
struct BceTerm {
  T value;
  T derivative;
};

// exp(x) for x <= 0.
INDEED_HD double exp_nonpositive(double x) { return ::exp(x); }

#if defined(__CUDA_ARCH__)
INDEED_HD float exp_nonpositive(float x) { return ::expf(x); }
#else
// Cody-Waite reduction and a degree-6 polynomial; within 1 ulp, and zero where the result would be subnormal.
INDEED_HD float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  // Adding 1.5 * 2^23 rounds to the nearest integer in the low mantissa bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  __builtin_memcpy(&power, &exponent, sizeof(power));
  const float result = p * power;
  return x < -87.0f ? 0.0f : result;  // a NaN fails the comparison and stays a NaN
}
#endif

// Functions of e = exp(-|y|) in [0, 1].
template <typename T>
struct UnitTerms {
  T reciprocal;  // 1 / (1 + e)
  T log1p;       // log(1 + e)
};

INDEED_HD UnitTerms<double> unit_terms(double e) { return {1 / (1 + e), ::log1p(e)}; }

// log(1 + e) = 2 atanh(s), s = e / (2 + e), by a polynomial in s^2 that is within 4e-9 on [0, 1/9]; one division serves
// both functions.
INDEED_HD UnitTerms<float> unit_terms(float e) {
  const float one = 1.0f + e, two = 2.0f + e;
  const float reciprocal = 1.0f / (one * two);
  const float s = e * one * reciprocal;
  const float z = s * s;
  float p = 0.14087329f;
  p = p * z + 0.13980709f;
  p = p * z + 0.20012427f;
  p = p * z + 0.33333158f;
  p = p * z + 1.0f;
  return {two * reciprocal, 2.0f * s * p};
}

template <typename T>
INDEED_HD BceTerm<T> bce_term(T logit, bool positive, T positive_weight) {
  const T y = positive ? -logit : logit;
  const T magnitude = y < 0 ? -y : y;
  const T e = exp_nonpositive(-magnitude);
  const UnitTerms<T> terms = unit_terms(e);
  const T sigmoid = y < 0 ? e * terms.reciprocal : terms.reciprocal;
  const T overflowed = T(0) * (positive ? logit : (logit < 0 ? logit : T(0)));
  const T softplus = (y < 0 ? T(0) : y) + terms.log1p + overflowed;
  const T w = positive ? positive_weight : T(1);
  const T derivative = w * sigmoid;
  return {w * softplus, positive ? -derivative : derivative};
}

}  // namespace indeed
