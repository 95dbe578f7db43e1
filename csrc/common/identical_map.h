// The identical map of a row, eqs. (3) and (4), and its backward, the same expressions for both norms:
//
//   u = f_src * f_par,   m = (u - low) / extent,   dm = T * f_src,   du = inner / extent
//
// l2:      low = 0, extent = |u|;            inner = dm - m <m, dm>
// minmax:  low = min u, extent = max - min;  inner = dm - [u == low] at_low - [u == high] at_high,
//                                            at_low = sum(dm (1 - m)) / #argmin, at_high = sum(dm m) / #argmax
//
// 1 / extent is the product of `scale` and `rescale`. The second is 1, but for an extent so small that its reciprocal
// overflows: then the first is a power of two, and what may be of the order of the extent is multiplied with in between.
// A degenerate row (extent <= eps) has scale 0: its map and the gradient through it vanish.
#pragma once

#include <cmath>

#include "common/host_device.h"
#include "common/options.h"

namespace indeed {

template <typename T>
struct MapStatistics {
  T scale;
  T rescale;
  T low;
  T high;
  T low_share;   // 1 / number of elements at the minimum (0 for l2)
  T high_share;  // 1 / number of elements at the maximum (0 for l2)
};

template <typename T>
struct MapDerivative {
  T dot;  // <m, dm> (0 for minmax)
  T at_low;
  T at_high;
};

template <typename T>
struct Extremes;

template <>
struct Extremes<float> {
  static constexpr float kScale = 0x1p100f;
  static constexpr float kLeastSquareSum = 0x1p-100f, kGreatestSquareSum = 0x1p120f;
};

template <>
struct Extremes<double> {
  static constexpr double kScale = 0x1p1000;
  static constexpr double kLeastSquareSum = 0x1p-900, kGreatestSquareSum = 0x1p1000;
};

// Whether a sum of squares has neither over- nor underflowed; if not and all u
// are finite, the norm is the largest |u| times the root of the sum of (u / largest)^2.
template <typename T>
INDEED_HD bool is_accurate_square_sum(T sum) {
  return sum >= Extremes<T>::kLeastSquareSum && sum <= Extremes<T>::kGreatestSquareSum;
}

template <typename T>
INDEED_HD MapStatistics<T> extent_statistics(T extent, T low, T high, T low_share, T high_share, double eps) {
  if (static_cast<double>(extent) <= eps) return {T(0), T(1), low, high, T(0), T(0)};
  constexpr T kScale = Extremes<T>::kScale;
  if (extent < T(1) / kScale) return {kScale, T(1) / (extent * kScale), low, high, low_share, high_share};
  return {T(1) / extent, T(1), low, high, low_share, high_share};
}

template <typename T>
INDEED_HD MapStatistics<T> l2_statistics(T norm, double eps) {
  return extent_statistics(norm, T(0), T(0), T(0), T(0), eps);
}

template <typename T>
INDEED_HD MapStatistics<T> minmax_statistics(T low, T high, int64_t low_count, int64_t high_count, double eps) {
  return extent_statistics(high - low, low, high, T(1) / T(low_count), T(1) / T(high_count), eps);
}

template <typename T>
INDEED_HD T map_value(T u, const MapStatistics<T>& s) {
  return (u - s.low) * s.scale * s.rescale;
}

// dot_identical = sum(dm m), dot_disparate = sum(dm (1 - m)).
template <typename T>
INDEED_HD MapDerivative<T> map_derivative(const MapStatistics<T>& s, bool minmax, T dot_identical, T dot_disparate) {
  if (!minmax) return {dot_identical, T(0), T(0)};
  return {T(0), dot_disparate * s.low_share, dot_identical * s.high_share};
}

// Rows (i, j) and (j, i) share u; the gradients of u they send add up.
template <typename T>
INDEED_HD MapDerivative<T> operator+(const MapDerivative<T>& a, const MapDerivative<T>& b) {
  return {a.dot + b.dot, a.at_low + b.at_low, a.at_high + b.at_high};
}

// du less the factor `rescale`, given m = map_value(u). What it is multiplied with, f_src or f_par, comes before that
// factor: du itself may overflow where the gradient of a feature does not.
template <bool kMinmax, typename T>
INDEED_HD T product_gradient(T u, T m, T dm, const MapStatistics<T>& s, const MapDerivative<T>& d) {
  const T inner =
      kMinmax ? dm - (u == s.low ? d.at_low : T(0)) - (u == s.high ? d.at_high : T(0)) : dm - m * d.dot;
  return inner * s.scale;
}

}  // namespace indeed
