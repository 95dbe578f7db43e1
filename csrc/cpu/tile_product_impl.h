// Products of matrix tiles held in registers. Included once per instruction set, as row_kernels_impl.h is.
//
//   out[i][j] (+)= sum over k of a[i][k] * panel[k][j],   i < 6, j < two vectors
//
// The right operand is packed into panels of kPanelColumns consecutive columns, so that every step of the sum reads one
// or two whole vectors; the left one is read in place, a broadcast a row. Twelve accumulators, two vectors of the panel
// and a broadcast fill the sixteen registers of AVX2. An element is summed in the order of k alone, so results do not
// depend on how the work was cut into tiles.

namespace {

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(INDEED_VECTOR_BYTES)));
  static constexpr int64_t kLanes = INDEED_VECTOR_BYTES / sizeof(T);
};

template <typename T>
constexpr int64_t kPanelColumns = 2 * VectorOf<T>::kLanes;

constexpr int64_t kTileRows = 6;
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

// Rows of the left operand, `step` elements from one k to the next, and where their results go.
template <typename T>
struct TileRows {
  const T* left[kTileRows];
  T* out[kTileRows];
};

template <typename T, int kRows, int kVectors>
void multiply_tile(const TileRows<T>& rows, int64_t step, const T* panel, int64_t depth, int64_t columns, bool add) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  // Loops over the tile are unrolled by request: only then do the sums live in registers from first to last.
  Vector<T> sum[kRows][kVectors];
  const T* left[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    left[i] = rows.left[i];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector<T>{};
  }
  for (int64_t k = 0; k < depth; ++k, panel += kPanelColumns<T>) {
    Vector<T> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_vector(panel + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const T factor = left[i][k * step];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] += factor * right[v];
    }
  }
  if (columns == kVectors * kLanes) [[likely]] {
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      T* out = rows.out[i];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        store_vector(out + v * kLanes, add ? load_vector(out + v * kLanes) + sum[i][v] : sum[i][v]);
      }
    }
    return;
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    T lane[kVectors * kLanes];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_vector(lane + v * kLanes, sum[i][v]);
    for (int64_t j = 0; j < columns; ++j) rows.out[i][j] = add ? rows.out[i][j] + lane[j] : lane[j];
  }
}

template <typename T, int kRows>
inline void multiply_rows(const TileRows<T>& rows, int64_t step, const T* panel, int64_t depth, int64_t columns,
                          bool add) {
  if (columns <= VectorOf<T>::kLanes) {
    multiply_tile<T, kRows, 1>(rows, step, panel, depth, columns, add);
  } else {
    multiply_tile<T, kRows, 2>(rows, step, panel, depth, columns, add);
  }
}

// The first `count` rows; an odd count repeats the last one, with a result that goes nowhere.
template <typename T>
void multiply(TileRows<T>& rows, int64_t count, int64_t step, const T* panel, int64_t depth, int64_t columns,
              bool add) {
  T spare[kPanelColumns<T>] = {};
  if (count % 2 != 0) {
    rows.left[count] = rows.left[count - 1];
    rows.out[count] = spare;
  }
  if (count > 4) {
    multiply_rows<T, 6>(rows, step, panel, depth, columns, add);
  } else if (count > 2) {
    multiply_rows<T, 4>(rows, step, panel, depth, columns, add);
  } else {
    multiply_rows<T, 2>(rows, step, panel, depth, columns, add);
  }
}

// out += or = left @ panels for left rows `row_step` apart and elements `step` apart; panels lie `panel_stride` apart.
template <typename T>
struct Product {
  const T* left;
  int64_t rows, row_step, step, depth;
  const T* panels;
  int64_t panel_stride, columns;
  T* out;
  int64_t out_stride;
  bool add;

  void run_tile(int64_t first, int64_t column) const {
    const int64_t count = std::min(kTileRows, rows - first);
    TileRows<T> tile;
    for (int64_t i = 0; i < count; ++i) {
      tile.left[i] = left + (first + i) * row_step;
      tile.out[i] = out + (first + i) * out_stride + column;
    }
    multiply(tile, count, step, panels + column / kPanelColumns<T> * panel_stride, depth,
             std::min(kPanelColumns<T>, columns - column), add);
  }

  // Keeps a tile of left rows in cache while the panels pass, which together fit the second level.
  void rows_first() const {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      for (int64_t column = 0; column < columns; column += kPanelColumns<T>) run_tile(row, column);
    }
  }
};

}  // namespace
