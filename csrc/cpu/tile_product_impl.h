// Products of matrix tiles held in registers. Included once per instruction set, as row_kernels_impl.h is.
//
//   out[i][j] (+)= sum over k of a[i][k] * panel[k][j],   i < kTileRows, j < two vectors
//
// The right operand is packed into panels of kPanelColumns consecutive columns, so that every step of the sum reads one
// or two whole vectors; the left one is read in place, a broadcast a row. Sums, two vectors of the panel and a broadcast
// fill the registers. An element is summed in the order of k alone, so results do not depend on how the work was cut into
// tiles.

namespace {

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(INDEED_VECTOR_BYTES)));
  static constexpr int64_t kLanes = INDEED_VECTOR_BYTES / sizeof(T);
};

template <typename T>
constexpr int64_t kPanelColumns = 2 * VectorOf<T>::kLanes;

constexpr int kTileRows = INDEED_VECTOR_REGISTERS == 32 ? 12 : 6;
// Rows of a tile of one vector only, which has sums enough to hide the latency of their additions.
constexpr int kTallRows = 2 * kTileRows;

// Rows of the next tile where `left` are left: tiles of about the same height, as a low one keeps the arithmetic units
// waiting for its few sums.
inline int64_t even_rows(int64_t left, int64_t most) {
  const int64_t tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

template <typename T>
inline int64_t tile_rows(int64_t left, int64_t columns) {
  return even_rows(left, columns <= VectorOf<T>::kLanes ? kTallRows : kTileRows);
}

// Longest sum of one tile: a panel this deep (16 KiB) stays in the first-level cache beside the left operand.
constexpr int64_t kTileDepth = 256;

template <typename T>
using Vector = typename VectorOf<T>::Type;

template <typename T>
inline __attribute__((always_inline)) Vector<T> load_vector(const T* data) {
  Vector<T> vector;
  __builtin_memcpy(&vector, data, sizeof(vector));
  return vector;
}

template <typename T>
inline __attribute__((always_inline)) void store_vector(T* data, Vector<T> vector) {
  __builtin_memcpy(data, &vector, sizeof(vector));
}

// The rows of a tile: left(i) is read, elements `step` apart from one k to the next, out(i) is written. Here those read
// lie `kPitch` apart and those written anywhere.
template <typename T, int64_t kPitch>
struct ScatteredRows {
  const T* from;
  T* to[kTallRows];

  const T* left(int64_t i) const { return from + i * kPitch; }
  T* out(int64_t i) const { return to[i]; }
};

template <typename T>
struct StridedRows {
  const T* from;
  T* to;
  int64_t from_stride, to_stride;

  const T* left(int64_t i) const { return from + i * from_stride; }
  T* out(int64_t i) const { return to + i * to_stride; }
};

// Loops over the tile are unrolled by request: only then do the sums live in registers from first to last.
template <int kRows, int kVectors, typename T, typename Rows>
__attribute__((noinline)) void multiply_tile(const Rows& rows, int64_t step, const T* panel, int64_t depth, int64_t columns, bool add) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  Vector<T> sum[kRows][kVectors];
  const T* left[kRows];
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
    left[i] = rows.left(i);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector<T>{};
  }
  for (int64_t k = 0; k < depth; ++k, panel += kPanelColumns<T>) {
    Vector<T> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_vector(panel + v * kLanes);
#pragma GCC unroll 24
    for (int i = 0; i < kRows; ++i) {
      const T factor = left[i][k * step];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] += factor * right[v];
    }
  }
  if (columns == kVectors * kLanes) [[likely]] {
#pragma GCC unroll 24
    for (int i = 0; i < kRows; ++i) {
      T* out = rows.out(i);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        store_vector(out + v * kLanes, add ? load_vector(out + v * kLanes) + sum[i][v] : sum[i][v]);
      }
    }
    return;
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
    T lane[kVectors * kLanes], *out = rows.out(i);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_vector(lane + v * kLanes, sum[i][v]);
    for (int64_t j = 0; j < columns; ++j) out[j] = add ? out[j] + lane[j] : lane[j];
  }
}

// The first `count` rows, kRows at most, and `columns` columns.
template <int kRows, int kVectors, typename T, typename Rows>
inline void multiply_rows(const Rows& rows, int64_t count, int64_t step, const T* panel, int64_t depth, int64_t columns,
                          bool add) {
  if constexpr (kRows > 1) {
    if (count < kRows) return multiply_rows<kRows - 1, kVectors>(rows, count, step, panel, depth, columns, add);
  }
  multiply_tile<kRows, kVectors>(rows, step, panel, depth, columns, add);
}

template <typename T, typename Rows>
inline void multiply(const Rows& rows, int64_t count, int64_t step, const T* panel, int64_t depth, int64_t columns,
                     bool add) {
  if (columns <= VectorOf<T>::kLanes) {
    multiply_rows<kTallRows, 1>(rows, count, step, panel, depth, columns, add);
  } else {
    multiply_rows<kTileRows, 2>(rows, count, step, panel, depth, columns, add);
  }
}

// out += or = left @ panels for left rows `row_step` apart and elements `step` apart; panels lie `panel_stride` apart.
// A tile of left rows stays in cache while the panels pass, which together fit the second level.
template <typename T>
struct Product {
  const T* left;
  int64_t rows, row_step, step, depth;
  const T* panels;
  int64_t panel_stride, columns;
  T* out;
  int64_t out_stride;
  bool add;

  void run() const {
    for (int64_t row = 0, count; row < rows; row += count) {
      count = even_rows(rows - row, kTileRows);
      const T* panel = panels;
      for (int64_t column = 0; column < columns; column += kPanelColumns<T>, panel += panel_stride) {
        const StridedRows<T> tile{left + row * row_step, out + row * out_stride + column, row_step, out_stride};
        multiply(tile, count, step, panel, depth, std::min(kPanelColumns<T>, columns - column), add);
      }
    }
  }
};

}  // namespace
