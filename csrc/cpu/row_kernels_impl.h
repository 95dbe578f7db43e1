// Bodies of the row kernels. Included once per instruction set.

namespace {

// The least and the greatest u of a row.
template <typename T>
struct ProductRange {
  T low, high;
};

template <typename T>
ProductRange<T> product_range(const T* __restrict source, const T* __restrict partner, int64_t width) {
  T low = source[0] * partner[0], high = low, nonfinite = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : nonfinite)
  for (int64_t k = 0; k < width; ++k) {
    const T u = source[k] * partner[k];
    low = u < low ? u : low;
    high = u > high ? u : high;
    nonfinite += u - u;  // not a number as soon as one u is not finite: a NaN must not vanish in comparisons
  }
  return {low + nonfinite, high + nonfinite};
}

// |u| of a row whose squares may have over- or underflowed.
template <typename T>
T row_norm(const T* __restrict source, const T* __restrict partner, int64_t width) {
  T square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
  for (int64_t k = 0; k < width; ++k) {
    const T u = source[k] * partner[k];
    square_sum += u * u;
  }
  if (width == 0 || is_accurate_square_sum(square_sum)) [[likely]]
    return std::sqrt(square_sum);
  const auto [low, high] = product_range(source, partner, width);
  const T largest = -low > high ? -low : high;
  if (!(largest > T(0))) return std::sqrt(square_sum);  // all are zero, or one is not finite
  square_sum = 0;
  for (int64_t k = 0; k < width; ++k) {
    const T u = source[k] * partner[k] / largest;
    square_sum += u * u;
  }
  return largest * std::sqrt(square_sum);
}

template <typename T>
MapStatistics<T> map_statistics(const T* __restrict source, const T* __restrict partner, int64_t width, bool minmax,
                                double eps) {
  if (!minmax) return l2_statistics(row_norm(source, partner, width), eps);
  if (width == 0) return l2_statistics(T(0), eps);
  const auto [low, high] = product_range(source, partner, width);
  T low_count = 0, high_count = 0;
#pragma omp simd reduction(+ : low_count, high_count)
  for (int64_t k = 0; k < width; ++k) {
    const T u = source[k] * partner[k];
    low_count += u == low ? T(1) : T(0);
    high_count += u == high ? T(1) : T(0);
  }
  return minmax_statistics(low, high, static_cast<int64_t>(low_count), static_cast<int64_t>(high_count), eps);
}

// m f of one row.
template <typename T>
inline void form_identical(const T* __restrict source, const T* __restrict partner, int64_t width, MapStatistics<T> s,
                           T* __restrict out) {
  for (int64_t k = 0; k < width; ++k) out[k] = map_value(source[k] * partner[k], s) * source[k];
}

template <typename T>
void form_rows(const T* features, int64_t width, const RowView& rows, bool minmax, double eps, int64_t begin,
               int64_t end, T* identical, T* disparate, MapStatistics<T>* statistics) {
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict source = features + rows.source[row] * width;
    const T* __restrict partner = features + rows.partner[row] * width;
    const MapStatistics<T> s = map_statistics(source, partner, width, minmax, eps);
    statistics[row] = s;
    T* __restrict out = identical + row * width;
    form_identical(source, partner, width, s, out);
    if (disparate != nullptr) {
      T* __restrict rest = disparate + row * width;
      for (int64_t k = 0; k < width; ++k) rest[k] = source[k] - out[k];
    }
  }
}

// Classes worked on together, and those that may be left at the end: few enough that ten or twenty classes do not pay for
// thirty-two. Unused lanes of the last tile are marked unknown.
constexpr int64_t kTileLanes = 16, kLastLanes = 8;

template <typename T, int64_t kLanes = kTileLanes>
struct Tile {
  alignas(64) T lane[kLanes];
};

// The bits of the classes of a tile, the first of them at bit 0.
inline uint32_t tile_bits(const uint32_t* words, int64_t first_class) {
  return words[first_class / kWordBits] >> (first_class % kWordBits);
}

template <typename T, int64_t kLanes>
inline __attribute__((always_inline)) void clear(Tile<T, kLanes>& tile) {
#pragma omp simd
  for (int64_t l = 0; l < kLanes; ++l) tile.lane[l] = T(0);
}

template <typename T, int64_t kLanes>
inline __attribute__((always_inline)) void load(Tile<T, kLanes>& tile, const T* data, int64_t count) {
  if (count == kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) tile.lane[l] = data[l];
  } else {
    for (int64_t l = 0; l < kLanes; ++l) tile.lane[l] = l < count ? data[l] : T(0);
  }
}

template <typename T, int64_t kLanes>
inline __attribute__((always_inline)) void store(const Tile<T, kLanes>& tile, T* data, int64_t count) {
  if (count == kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) data[l] = tile.lane[l];
  } else {
    for (int64_t l = 0; l < count; ++l) data[l] = tile.lane[l];
  }
}

// Cross-entropy of the valid lanes, and its derivative in each.
template <typename T, int64_t kLanes>
inline __attribute__((always_inline)) T bce_tile(const Tile<T, kLanes>& logits, uint32_t target, uint32_t valid,
                                                 const Tile<T, kLanes>& pos_weight, Tile<T, kLanes>& derivative) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t l = 0; l < kLanes; ++l) {
    const BceTerm<T> term = bce_term(logits.lane[l], ((target >> l) & 1u) != 0, pos_weight.lane[l]);
    const bool counts = ((valid >> l) & 1u) != 0;
    sum += counts ? term.value : T(0);
    derivative.lane[l] = counts ? term.derivative : T(0);
  }
  return sum;
}

inline uint32_t lanes_mask(int64_t count) { return (1u << count) - 1u; }

template <typename T, int64_t kLanes>
void load_pos_weight(Tile<T, kLanes>& tile, const T* pos_weight, int64_t first_class, int64_t count) {
  if (pos_weight != nullptr) {
    load(tile, pos_weight + first_class, count);
  } else {
    for (int64_t l = 0; l < kLanes; ++l) tile.lane[l] = T(1);
  }
}

// One tile of a sample and of its own rows; kWhole says that all of its classes exist.
template <typename T, int64_t kLanes, bool kWhole>
inline __attribute__((always_inline)) void bce_sample_tile(const BceChunk<T>& b, const RowView& rows,
                                                           const TermWeights<T>& weights, int64_t sample, int64_t c,
                                                           T* grad_bias) {
  const int64_t count = kWhole ? kLanes : b.classes - c;
  const uint32_t lanes = lanes_mask(count);
  const uint32_t positive = tile_bits(b.positive_bits + sample * b.words, b.first_class + c);
  const uint32_t valid = b.valid_bits != nullptr ? tile_bits(b.valid_bits + sample * b.words, b.first_class + c) & lanes : lanes;
  Tile<T, kLanes> o, q, d, bias, biased, pos_weight, derivative_o, derivative_i, derivative_d, grad_o, grad_b;
  T* logits = b.original + sample * b.stride + c;
  load(o, logits, count);
  clear(bias);
  if (b.bias != nullptr) load(bias, b.bias + b.first_class + c, count);
  load_pos_weight(pos_weight, b.pos_weight, b.first_class + c, count);
  for (int64_t l = 0; l < kLanes; ++l) biased.lane[l] = o.lane[l] + bias.lane[l];
  const T loss_o = bce_tile(biased, positive, valid, pos_weight, derivative_o);
  clear(grad_o);
  clear(grad_b);
  for (int64_t k = rows.own_begin[sample]; k < rows.own_begin[sample + 1]; ++k) {
    const int64_t row = rows.own[k];
    const T weight = b.row_weight != nullptr ? b.row_weight[row] : weights.scale;
    RowSums& sums = b.sums[row];
    sums.original += loss_o;
    for (int64_t l = 0; l < kLanes; ++l) grad_o.lane[l] += weight * derivative_o.lane[l];
    if (grad_bias != nullptr) {
      for (int64_t l = 0; l < kLanes; ++l) grad_b.lane[l] += weight * derivative_o.lane[l];
    }
    if (b.term_mask == 0) continue;
    const int64_t partner = rows.partner[row] * b.words;
    const uint32_t partner_positive = tile_bits(b.positive_bits + partner, b.first_class + c);
    const uint32_t both = b.valid_bits != nullptr ? valid & tile_bits(b.valid_bits + partner, b.first_class + c) : valid;
    T* row_logits = b.identical + row * b.stride + c;
    load(q, row_logits, count);
    clear(derivative_i);
    clear(derivative_d);
    for (int64_t l = 0; l < kLanes; ++l) d.lane[l] = o.lane[l] - q.lane[l];
    if (b.term_mask & kIdenticalTerm) {
      for (int64_t l = 0; l < kLanes; ++l) biased.lane[l] = q.lane[l] + bias.lane[l];
      sums.identical += bce_tile(biased, positive & partner_positive, both, pos_weight, derivative_i);
    }
    if (b.term_mask & kDisparateTerm) {
      for (int64_t l = 0; l < kLanes; ++l) biased.lane[l] = d.lane[l] + bias.lane[l];
      sums.disparate += bce_tile(biased, positive & ~partner_positive, both, pos_weight, derivative_d);
    }
    if (!b.gradients) continue;
    const T weight_i = weight * weights.identical, weight_d = weight * weights.disparate;
    T dot_identical = 0, dot_disparate = 0;
#pragma omp simd reduction(+ : dot_identical, dot_disparate)
    for (int64_t l = 0; l < kLanes; ++l) {
      const T g_i = weight_i * derivative_i.lane[l], g_d = weight_d * derivative_d.lane[l], g = g_i - g_d;
      // The logit of a class that does not count may have overflowed.
      dot_identical += g != 0 ? g * q.lane[l] : T(0);
      dot_disparate += g != 0 ? g * d.lane[l] : T(0);
      grad_o.lane[l] += g_d;
      q.lane[l] = g;
      grad_b.lane[l] += g_i + g_d;
    }
    sums.dot_identical += dot_identical;
    sums.dot_disparate += dot_disparate;
    store(q, row_logits, count);
  }
  if (!b.gradients) return;
  store(grad_o, logits, count);
  if (grad_bias != nullptr) {
    for (int64_t l = 0; l < count; ++l) grad_bias[c + l] += grad_b.lane[l];
  }
}

template <typename T>
void bce_epilogue(const BceChunk<T>& b, const RowView& rows, int64_t begin, int64_t end, T* grad_bias) {
  const TermWeights<T> weights = term_weights(b);
  for (int64_t sample = begin; sample < end; ++sample) {
    int64_t c = 0;
    for (; c + kTileLanes <= b.classes; c += kTileLanes) {
      bce_sample_tile<T, kTileLanes, true>(b, rows, weights, sample, c, grad_bias);
    }
    if (c + kLastLanes < b.classes) {
      bce_sample_tile<T, kTileLanes, false>(b, rows, weights, sample, c, grad_bias);
    } else if (c < b.classes) {
      bce_sample_tile<T, kLastLanes, false>(b, rows, weights, sample, c, grad_bias);
    }
  }
}

template <typename T>
void six_way(const SixWayLogits<T>& x, const BceChunk<T>& b, const RowView& rows, int64_t begin, int64_t end) {
  const TermWeights<T> weights = term_weights(b);
  Tile<T> logits{}, pos_weight{}, derivative_o{}, derivative{}, grad_o{};
  for (int64_t sample = begin; sample < end; ++sample) {
    for (int64_t c = 0; c < x.classes; c += kTileLanes) {
      const int64_t count = std::min(kTileLanes, x.classes - c);
      const uint32_t lanes = lanes_mask(count);
      const uint32_t positive = tile_bits(b.positive_bits + sample * b.words, c);
      const uint32_t valid = b.valid_bits != nullptr ? tile_bits(b.valid_bits + sample * b.words, c) & lanes : lanes;
      load(logits, x.original + sample * x.classes + c, count);
      load_pos_weight(pos_weight, b.pos_weight, c, count);
      const T loss_o = bce_tile(logits, positive, valid, pos_weight, derivative_o);
      clear(grad_o);
      for (int64_t k = rows.own_begin[sample]; k < rows.own_begin[sample + 1]; ++k) {
        const int64_t row = rows.own[k];
        const T weight = b.row_weight != nullptr ? b.row_weight[row] : weights.scale;
        RowSums& sums = b.sums[row];
        sums.original += loss_o;
        for (int64_t l = 0; l < kTileLanes; ++l) grad_o.lane[l] += weight * derivative_o.lane[l];
        const int64_t partner = rows.partner[row] * b.words;
        const uint32_t partner_positive = tile_bits(b.positive_bits + partner, c);
        const uint32_t both = b.valid_bits != nullptr ? valid & tile_bits(b.valid_bits + partner, c) : valid;
        const auto term = [&](const T* in, T* gradient, uint32_t target, bool enabled, T lam, double& sum) {
          clear(derivative);
          if (enabled) {
            load(logits, in + row * x.classes + c, count);
            sum += bce_tile(logits, target, both, pos_weight, derivative);
            for (int64_t l = 0; l < kTileLanes; ++l) derivative.lane[l] *= weight * lam;
          }
          if (b.gradients) store(derivative, gradient + row * x.classes + c, count);
        };
        term(x.identical, x.grad_identical, positive & partner_positive, b.term_mask & kIdenticalTerm, weights.identical,
              sums.identical);
        term(x.disparate, x.grad_disparate, positive & ~partner_positive, b.term_mask & kDisparateTerm, weights.disparate,
              sums.disparate);
      }
      if (b.gradients) store(grad_o, x.grad_original + sample * x.classes + c, count);
    }
  }
}

template <typename T>
void map_dots(const T* features, const T* identical, const T* map_gradient, int64_t width, const RowView& rows,
              int64_t begin, int64_t end, RowSums* sums) {
  for (int64_t row = begin; row < end; ++row) {
    const T* source = features + rows.source[row] * width;
    const T* formed = identical + row * width;
    const T* gradient = map_gradient + row * width;
    T dot_identical = 0, dot_disparate = 0;
#pragma omp simd reduction(+ : dot_identical, dot_disparate)
    for (int64_t k = 0; k < width; ++k) {
      dot_identical += gradient[k] * formed[k];
      dot_disparate += gradient[k] * (source[k] - formed[k]);
    }
    sums[row].dot_identical += dot_identical;
    sums[row].dot_disparate += dot_disparate;
  }
}

}  // namespace

template <typename T>
constexpr RowKernels<T> kRowKernels{form_rows<T>, bce_epilogue<T>, six_way<T>, map_dots<T>, map_backward<T>};
