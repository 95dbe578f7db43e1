// The identical map of a row, eqs. (3) and (4), and its backward, the same expressions for both norms:
//
//   u = f_src * f_par,   m = (u - low) * scale
//   dm = T * f_src       du = scale * dm + product * u - [u == low] at_low - [u == high] at_high
//
// l2:      low = 0, scale = 1 / |u|;              product = -<m, dm> / |u|^2, nothing at low or high
// minmax:  low = min u, scale = 1 / (max - min);  product = 0, at_low = scale * sum(dm (1 - m)) / #argmin,
//                                                 at_high = scale * sum(dm m) / #argmax
// A degenerate row (norm or range <= eps) has scale 0: its map and the gradient through it vanish.
#pragma once

#include <cmath>

#include "common/host_device.h"
#include "common/options.h"

namespace indeed {

template <typename T>
struct MapStatistics {
  T scale;
  T low;
  T high;
  T low_share;   // 1 / number of elements at the minimum (0 for l2)
  T high_share;  // 1 / number of elements at the maximum (0 for l2)
};

template <typename T>
struct MapSlope {
  T product;
  T at_low;
  T at_high;
};

template <typename T>
INDEED_HD MapStatistics<T> l2_statistics(T square_sum, double eps) {
  const T norm = std::sqrt(square_sum);
  const bool degenerate = static_cast<double>(norm) <= eps;
  return {degenerate ? T(0) : T(1) / norm, T(0), T(0), T(0), T(0)};
}

template <typename T>
INDEED_HD MapStatistics<T> minmax_statistics(T low, T high, int64_t low_count, int64_t high_count, double eps) {
  const T range = high - low;
  if (static_cast<double>(range) <= eps) return {T(0), low, high, T(0), T(0)};
  return {T(1) / range, low, high, T(1) / T(low_count), T(1) / T(high_count)};
}

template <typename T>
INDEED_HD T map_value(T u, const MapStatistics<T>& s) {
  return (u - s.low) * s.scale;
}

// dot_identical = sum(dm m), dot_disparate = sum(dm (1 - m)).
template <typename T>
INDEED_HD MapSlope<T> map_slope(const MapStatistics<T>& s, bool minmax, T dot_identical, T dot_disparate) {
  if (!minmax) return {-dot_identical * s.scale * s.scale, T(0), T(0)};
  return {T(0), s.scale * dot_disparate * s.low_share, s.scale * dot_identical * s.high_share};
}

// Rows (i, j) and (j, i) share u; the gradients of u they send add up.
template <typename T>
INDEED_HD MapSlope<T> operator+(const MapSlope<T>& a, const MapSlope<T>& b) {
  return {a.product + b.product, a.at_low + b.at_low, a.at_high + b.at_high};
}

template <bool kMinmax, typename T>
INDEED_HD T product_gradient(T u, T dm, const MapStatistics<T>& s, const MapSlope<T>& d) {
  if (!kMinmax) return s.scale * dm + d.product * u;
  return s.scale * dm - (u == s.low ? d.at_low : T(0)) - (u == s.high ? d.at_high : T(0));
}

}  // namespace indeed
