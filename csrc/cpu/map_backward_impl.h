// The gradient of the features through the identical maps, for some columns of all rows: a row sends it to its source
// and its partner at once, so u and its gradient are formed once. Rows come in ascending order, which is the order of
// every sum. Included once per instruction set, before row_kernels_impl.h.

namespace {

// What the rows (i, j) and, where kReverse, (j, i) send to i and to j; both share u, so both gradients of u are one
// expression.
template <typename T, bool kMinmax, bool kReverse>
void send_to_both(const T* __restrict f, const T* __restrict partner, const T* __restrict t,
                  const T* __restrict reverse_t, int64_t width, MapStatistics<T> s, MapDerivative<T> derivative, T* __restrict out,
                  T* __restrict partner_out) {
#pragma omp simd
  for (int64_t k = 0; k < width; ++k) {
    const T u = f[k] * partner[k], m = map_value(u, s);
    const T dm = kReverse ? t[k] * f[k] + reverse_t[k] * partner[k] : t[k] * f[k];
    const T du = product_gradient<kMinmax>(u, m, dm, s, derivative);
    out[k] += m * t[k] + du * partner[k] * s.rescale;
    partner_out[k] += kReverse ? m * reverse_t[k] + du * f[k] * s.rescale : du * f[k] * s.rescale;
  }
}

// The row (i, i).
template <typename T, bool kMinmax>
void send_to_itself(const T* __restrict f, const T* __restrict t, int64_t width, MapStatistics<T> s, MapDerivative<T> derivative,
                    T* __restrict out) {
#pragma omp simd
  for (int64_t k = 0; k < width; ++k) {
    const T u = f[k] * f[k], m = map_value(u, s);
    out[k] += m * t[k] + 2 * product_gradient<kMinmax>(u, m, t[k] * f[k], s, derivative) * f[k] * s.rescale;
  }
}

template <typename T, bool kMinmax>
void map_backward_norm(const MapBackward<T>& b, const RowView& rows, T* grad_features, int64_t stride) {
  const auto derivative_of = [&](int64_t row) {
    return map_derivative(b.statistics[row], kMinmax, static_cast<T>(b.sums[row].dot_identical),
                     static_cast<T>(b.sums[row].dot_disparate));
  };
  const auto map_gradient = [&](int64_t row) { return b.map_gradient + row * b.gradient_stride; };
  for (int64_t row = 0; row < rows.count; ++row) {
    const int64_t source = rows.source[row], partner = rows.partner[row], reverse_row = rows.reverse_row[row];
    const T *f = b.features + source * b.feature_stride, *g = b.features + partner * b.feature_stride;
    T *out = grad_features + source * stride, *partner_out = grad_features + partner * stride;
    const MapStatistics<T> s = b.statistics[row];
    if (source == partner) {
      send_to_itself<T, kMinmax>(f, map_gradient(row), b.width, s, derivative_of(row), out);
    } else if (reverse_row < 0) {
      send_to_both<T, kMinmax, false>(f, g, map_gradient(row), nullptr, b.width, s, derivative_of(row), out, partner_out);
    } else if (row < reverse_row) {
      send_to_both<T, kMinmax, true>(f, g, map_gradient(row), map_gradient(reverse_row), b.width, s,
                                     derivative_of(row) + derivative_of(reverse_row), out, partner_out);
    }
  }
}

// grad_features, rows `stride` apart, may be the base itself.
template <typename T>
void map_backward(const MapBackward<T>& b, const RowView& rows, int64_t batch, T* grad_features, int64_t stride) {
  for (int64_t i = 0; i < batch && b.base != grad_features; ++i) {
    T* out = grad_features + i * stride;
    if (b.base != nullptr) {
      std::copy(b.base + i * b.gradient_stride, b.base + i * b.gradient_stride + b.width, out);
    } else {
      std::fill(out, out + b.width, T(0));
    }
  }
  for (int64_t row = 0; row < rows.count && b.grad_source != nullptr; ++row) {
    const T* added = b.grad_source + row * b.gradient_stride;
    T* out = grad_features + rows.source[row] * stride;
    for (int64_t k = 0; k < b.width; ++k) out[k] += added[k];
  }
  if (b.minmax) {
    map_backward_norm<T, true>(b, rows, grad_features, stride);
  } else {
    map_backward_norm<T, false>(b, rows, grad_features, stride);
  }
}

}  // namespace
