// Products whose left operand is zero in many places, as features after ReLU and their products are. Included once per
// instruction set, after tile_product_impl.h.
//
//   out[j] (+)= sum over k in the mask of left[k] * panel[k][j],   j < one to kSparseVectors vectors
//
// A mask has a bit for every k that is not zero, so the cost follows the elements that count. A row has all its sums in
// registers; where they are too few to hide the latency of an addition, there are two of each, of every other element.

namespace {

constexpr int64_t kMaskWords = kTileDepth / kMaskBits;
constexpr int kSparseVectors = INDEED_VECTOR_REGISTERS == 32 ? 24 : 12;

// Columns of a panel; the last one is as many vectors wide as it needs.
template <typename T>
constexpr int64_t kSparseColumns = kSparseVectors * VectorOf<T>::kLanes;

template <typename T>
inline int64_t whole_vectors(int64_t columns) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  return (columns + kLanes - 1) / kLanes;
}

// A bit for each lane that is not zero; not-a-numbers are not.
template <typename T>
inline __attribute__((always_inline)) uint64_t nonzero_lanes(Vector<T> vector) {
#if defined(__x86_64__) && INDEED_VECTOR_BYTES == 64
  constexpr int kUnequal = 4, kCurrentRounding = 4;
  const auto zero = Vector<T>{};
  if constexpr (sizeof(T) == 4) return __builtin_ia32_cmpps512_mask(vector, zero, kUnequal, 0xFFFF, kCurrentRounding);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_cmppd512_mask(vector, zero, kUnequal, 0xFF, kCurrentRounding);
#elif defined(__x86_64__) && INDEED_VECTOR_BYTES == 32
  const auto differs = vector != Vector<T>{};
  if constexpr (sizeof(T) == 4) return __builtin_ia32_movmskps256((Vector<float>)differs);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_movmskpd256((Vector<double>)differs);
#elif defined(__x86_64__) && INDEED_VECTOR_BYTES == 16
  const auto differs = vector != Vector<T>{};
  if constexpr (sizeof(T) == 4) return __builtin_ia32_movmskps((Vector<float>)differs);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_movmskpd((Vector<double>)differs);
#else
  const auto differs = vector != Vector<T>{};
  uint64_t bits = 0;
  for (int64_t l = 0; l < VectorOf<T>::kLanes; ++l) bits |= static_cast<uint64_t>(differs[l] != 0) << l;
  return bits;
#endif
}

// A bit for each of `count` <= 64 elements that is not zero.
template <typename T>
inline uint64_t nonzero_mask(const T* data, int64_t count) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  uint64_t mask = 0;
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) mask |= nonzero_lanes<T>(load_vector(data + k)) << k;
  for (; k < count; ++k) mask |= static_cast<uint64_t>(data[k] != T(0)) << k;
  return mask;
}

template <typename T>
inline void find_nonzeros(const T* data, int64_t count, uint64_t* masks) {
  for (int64_t k = 0; k < count; k += kMaskBits) *masks++ = nonzero_mask(data + k, std::min(kMaskBits, count - k));
}

inline uint64_t all_of(int64_t count) { return count == kMaskBits ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// bit[k] of row[i] becomes bit[i] of row[k].
inline void transpose_bits(uint64_t row[kMaskBits]) {
  uint64_t low = 0x00000000FFFFFFFFull;
  for (int64_t half = kMaskBits / 2; half > 0; half /= 2, low ^= low << half) {
    for (int64_t k = 0; k < kMaskBits; k = (k + half + 1) & ~half) {
      const uint64_t swapped = ((row[k] >> half) ^ row[k + half]) & low;
      row[k] ^= swapped << half;
      row[k + half] ^= swapped;
    }
  }
}

// Rows are those of the left operand: row t is read at rows.left(t), elements rows.step apart, and written at
// rows.out(t); rows.mask(t)[w] says where the 64 elements from 64 w on are not zero. Panel rows lie `pitch` apart.
template <int kVectors, typename T, typename Rows>
__attribute__((noinline)) void multiply_nonzero_rows(const Rows& rows, int64_t count, int64_t words, const T* panel,
                                                     int64_t pitch, bool add) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  constexpr int kChains = kVectors <= kSparseVectors / 2 ? 2 : 1;
  for (int64_t t = 0; t < count; ++t) {
    Vector<T> sum[kChains][kVectors];
#pragma GCC unroll 24
    for (int v = 0; v < kVectors; ++v) {
      sum[0][v] = Vector<T>{};
      sum[kChains - 1][v] = Vector<T>{};
    }
    const T *left = rows.left(t), *right = panel;
    const uint64_t* masks = rows.mask(t);
    const auto add_term = [&](Vector<T>(&to)[kVectors], int64_t k) __attribute__((always_inline)) {
      const T factor = left[k * rows.step];
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) to[v] += factor * load_vector(right + k * pitch + v * kLanes);
    };
    for (int64_t w = 0; w < words; ++w) {
#pragma GCC unroll 1
      for (uint64_t mask = masks[w]; mask != 0;) {
        add_term(sum[0], __builtin_ctzll(mask));
        mask &= mask - 1;
        if (kChains == 1) continue;
        if (mask == 0) break;
        add_term(sum[kChains - 1], __builtin_ctzll(mask));
        mask &= mask - 1;
      }
      left += kMaskBits * rows.step;
      right += kMaskBits * pitch;
    }
    T* out = rows.out(t);
#pragma GCC unroll 24
    for (int v = 0; v < kVectors; ++v) {
      const Vector<T> all = kChains == 2 ? sum[0][v] + sum[kChains - 1][v] : sum[0][v];
      store_vector(out + v * kLanes, add ? load_vector(out + v * kLanes) + all : all);
    }
  }
}

// Whole vectors of the result are written, kSparseVectors at most.
template <int kVectors = 1, typename T, typename Rows>
inline void multiply_nonzero(const Rows& rows, int64_t count, int64_t words, const T* panel, int64_t pitch,
                             int64_t vectors, bool add) {
  if constexpr (kVectors < kSparseVectors) {
    if (vectors > kVectors) return multiply_nonzero<kVectors + 1>(rows, count, words, panel, pitch, vectors, add);
  }
  multiply_nonzero_rows<kVectors>(rows, count, words, panel, pitch, add);
}

}  // namespace
