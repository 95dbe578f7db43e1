// Transposing in registers. Included once per instruction set, after tile_product_impl.h.

namespace {

// Elements of `low` and `high` in turn: those of the first halves, those of the second.
template <typename T>
struct Interleaved {
  Vector<T> first, second;
};

template <typename T>
inline __attribute__((always_inline)) Interleaved<T> interleave(Vector<T> low, Vector<T> high) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
#if __has_builtin(__builtin_shufflevector)
  if constexpr (kLanes == 16) {
    return {__builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
            __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
  } else if constexpr (kLanes == 8) {
    return {__builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11),
            __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15)};
  } else if constexpr (kLanes == 4) {
    return {__builtin_shufflevector(low, high, 0, 4, 1, 5), __builtin_shufflevector(low, high, 2, 6, 3, 7)};
  } else if constexpr (kLanes == 2) {
    return {__builtin_shufflevector(low, high, 0, 2), __builtin_shufflevector(low, high, 1, 3)};
  }
#endif
  Interleaved<T> mixed;
  for (int64_t l = 0; l < kLanes; ++l) {
    Vector<T>& to = l < kLanes / 2 ? mixed.first : mixed.second;
    to[2 * l % kLanes] = low[l];
    to[2 * l % kLanes + 1] = high[l];
  }
  return mixed;
}

// As many rows as a vector has elements. Each round moves the bit that tells halves of the rows apart behind those of
// the columns, so after log2 of them rows and columns have changed places.
template <bool kAdd, typename T>
inline __attribute__((always_inline)) void transpose_vectors(const T* in, int64_t in_stride, T* out,
                                                             int64_t out_stride) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  Vector<T> row[kLanes];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) row[i] = load_vector(in + i * in_stride);
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLanes; round *= 2) {
    Vector<T> next[kLanes];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLanes / 2; ++i) {
      const auto [first, second] = interleave<T>(row[i], row[i + kLanes / 2]);
      next[2 * i] = first;
      next[2 * i + 1] = second;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) row[i] = next[i];
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    T* to = out + i * out_stride;
    store_vector(to, kAdd ? load_vector(to) + row[i] : row[i]);
  }
}

// out[k][i] = in[i][k], or += where kAdd, for `rows` rows and `columns` columns; out rows are `out_stride` apart. Goes
// by blocks of whole cache lines, as strides of whole pages make neighbours evict each other.
template <bool kAdd = false, typename T>
void transpose(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes, kSide = 64 / sizeof(T);
  const auto transpose_part = [&](int64_t i, int64_t k, int64_t height, int64_t width) {
    if (height == kLanes && width == kLanes) {
      transpose_vectors<kAdd>(in + i * in_stride + k, in_stride, out + k * out_stride + i, out_stride);
      return;
    }
    for (int64_t l = k; l < k + width; ++l) {
      for (int64_t j = i; j < i + height; ++j) {
        T& to = out[l * out_stride + j];
        to = kAdd ? to + in[j * in_stride + l] : in[j * in_stride + l];
      }
    }
  };
  for (int64_t i0 = 0; i0 < rows; i0 += kSide) {
    for (int64_t k0 = 0; k0 < columns; k0 += kSide) {
      for (int64_t i = i0; i < std::min(rows, i0 + kSide); i += kLanes) {
        for (int64_t k = k0; k < std::min(columns, k0 + kSide); k += kLanes) {
          transpose_part(i, k, std::min(kLanes, rows - i), std::min(kLanes, columns - k));
        }
      }
    }
  }
}

}  // namespace
