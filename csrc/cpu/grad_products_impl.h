// The last pass of the fused loss: gradients of a tile of columns. Included once per instruction set, after
// logits_impl.h.

namespace {

// Between the rows of a tile in cache: spreads a column of them over the sets of the first level.
constexpr int64_t kColumnTilePadding = 16;

// Machines with wider vectors have larger caches of the second level, too.
template <typename T>
constexpr int64_t kMostTileColumns = kPanelColumns<T> * (INDEED_VECTOR_BYTES == 64 ? 8 : 4);

// Rows of the stack whose sum is formed in cache before it is added to the weight gradient.
constexpr int64_t kStackRows = 512, kStackWords = kStackRows / kMaskBits;

// Which rows of grad_logits are not all finite: a product by zero is not zero there.
template <typename T>
void mark_nonfinite_rows(const FusedChunk<T>& b, const RowView& rows, int64_t begin, int64_t end) {
  for (int64_t sample = begin; sample < end; ++sample) {
    b.nonfinite_rows[sample] = 0;
    for (int64_t k = rows.own_begin[sample]; k < rows.own_begin[sample + 1]; ++k) {
      const int64_t row = rows.own[k];
      const double weight = b.bce.row_weight != nullptr ? b.bce.row_weight[row] : 1;
      const bool finite = std::isfinite(weight * row_loss(b.bce.sums[row], b.bce.lam));
      if (b.bce.term_mask != 0) b.nonfinite_rows[b.batch + row] = !finite;
      b.nonfinite_rows[sample] |= !finite;
    }
  }
}

// Writes a row of `columns` columns into panels `panel_stride` apart; value(k) gives the vector at column k.
template <typename T, typename Value, typename Scalar>
inline void write_panel_row(int64_t columns, T* panels, int64_t panel_stride, const Value& value,
                            const Scalar& scalar) {
  constexpr int64_t kColumns = kPanelColumns<T>, kLanes = VectorOf<T>::kLanes;
  int64_t k = 0;
  for (; k + kColumns <= columns; k += kColumns, panels += panel_stride) {
    store_vector(panels, value(k));
    store_vector(panels + kLanes, value(k + kLanes));
  }
  if (k == columns) return;
  for (int64_t j = 0; j < kColumns; ++j) panels[j] = k + j < columns ? scalar(k + j) : T(0);
}

template <typename T>
inline void copy_panel_row(const T* row, int64_t columns, T* panels, int64_t panel_stride) {
  write_panel_row(
      columns, panels, panel_stride, [&](int64_t k) { return load_vector(row + k); },
      [&](int64_t k) { return row[k]; });
}

// Columns [begin, end) of rows [first, first + count) of the stack [f; I], as panels.
template <typename T>
void pack_stack(const FusedChunk<T>& b, const RowView& rows, int64_t first, int64_t count, int64_t begin, int64_t end,
                T* panels) {
  constexpr int64_t kStride = kTileDepth * kPanelColumns<T>;
  for (int64_t r = 0; r < count; ++r, panels += kPanelColumns<T>) {
    const int64_t row = first + r - b.batch;
    if (row < 0) {
      copy_panel_row(b.features + (first + r) * b.width + begin, end - begin, panels, kStride);
      continue;
    }
    const T* source = b.features + rows.source[row] * b.width + begin;
    const T* partner = b.features + rows.partner[row] * b.width + begin;
    const MapStatistics<T> s = b.statistics[row];
    write_panel_row(
        end - begin, panels, kStride,
        [&](int64_t k) {
          const Vector<T> f = load_vector(source + k);
          return (f * load_vector(partner + k) - s.low) * s.scale * s.rescale * f;
        },
        [&](int64_t k) { return map_value(source[k] * partner[k], s) * source[k]; });
  }
}

// Asks for columns [begin, end) of a matrix ahead of their use: they lie in short pieces, which no hardware foresees.
template <typename T>
void prefetch(const T* matrix, int64_t rows, int64_t stride, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = begin; k < end; k += kLine) __builtin_prefetch(matrix + i * stride + k, 0, 2);
  }
}

// Columns [begin, end) of `count` rows of the weight, as panels.
template <typename T>
void pack_weight_rows(const FusedChunk<T>& b, int64_t first, int64_t count, int64_t begin, int64_t end, T* panels) {
  for (int64_t c = 0; c < count; ++c) {
    copy_panel_row(b.weight + (first + c) * b.width + begin, end - begin, panels + c * kPanelColumns<T>,
                   kTileDepth * kPanelColumns<T>);
  }
}

// Columns [begin, end) of rows [first, first + count) of the stack as rows `pitch` apart, and for each column which of
// these rows are not zero there.
template <typename T>
void form_stack(const FusedChunk<T>& b, const RowView& rows, int64_t first, int64_t count, int64_t begin, int64_t end,
                T* out, int64_t pitch, uint64_t masks[kStackWords][kMaskBits]) {
  for (int64_t r = 0; r < count; ++r, out += pitch) {
    const int64_t row = first + r - b.batch;
    if (row < 0) {
      const T* source = b.features + (first + r) * b.width;
      std::copy(source + begin, source + end, out);
    } else {
      form_identical(b.features + rows.source[row] * b.width + begin, b.features + rows.partner[row] * b.width + begin,
                     end - begin, b.statistics[row], out);
    }
    const uint64_t nonzero = b.nonzero[(first + r) * mask_words(b.width) + begin / kMaskBits] >> (begin % kMaskBits);
    masks[r / kMaskBits][r % kMaskBits] = b.nonfinite_rows[first + r] ? ~uint64_t{0} : nonzero;
  }
  const int64_t words = mask_words(count);
  for (int64_t r = count; r < words * kMaskBits; ++r) masks[r / kMaskBits][r % kMaskBits] = 0;
  for (int64_t w = 0; w < words; ++w) transpose_bits(masks[w]);
}

// Column t of 64 rows of the stack times the gradients by their logits.
template <typename T>
struct ColumnRows {
  const T* from;
  int64_t step;
  T* to;
  int64_t to_stride;
  const uint64_t* masks;

  const T* left(int64_t t) const { return from + t; }
  T* out(int64_t t) const { return to + t * to_stride; }
  const uint64_t* mask(int64_t t) const { return masks + t; }
};

// The weight gradient of 64 columns at most, from `begin` on, transposed in cache: a row of it is a sum of grad_logits
// over the rows of the stack that are not zero in that column.
template <typename T>
void add_weight_gradient_nonzero(const FusedChunk<T>& b, const RowView& rows, int64_t row, int64_t count,
                                 int64_t begin, int64_t end, T* scratch) {
  constexpr int64_t kColumns = kSparseColumns<T>, kLanes = VectorOf<T>::kLanes;
  constexpr int64_t left_pitch = kMaskBits + kColumnTilePadding;
  const int64_t words = mask_words(count);
  uint64_t masks[kStackWords][kMaskBits];
  alignas(64) T sums[kMaskBits * kColumns];
  form_stack(b, rows, row, count, begin, end, scratch, left_pitch, masks);
  for (int64_t c = 0; c < b.bce.classes; c += kColumns) {
    const int64_t columns = std::min(kColumns, b.bce.classes - c), vectors = whole_vectors<T>(columns);
    for (int64_t w = 0; w < words; ++w) {
      const ColumnRows<T> features{scratch + w * kMaskBits * left_pitch, left_pitch, sums, vectors * kLanes, masks[w]};
      const T* gradients = b.bce.original + (row + w * kMaskBits) * b.bce.stride + c;
      multiply_nonzero(features, end - begin, 1, gradients, b.bce.stride, vectors, w > 0);
    }
    const auto put = row > 0 ? transpose<true, T> : transpose<false, T>;
    put(sums, vectors * kLanes, end - begin, columns, b.grad_weight + c * b.width + begin, b.width);
  }
}

template <typename T>
void grad_products(const FusedChunk<T>& b, const RowView& rows, int64_t begin, int64_t next, int64_t tile,
                     T* stack_gradient, T* scratch) {
  const int64_t classes = b.bce.classes, panel_stride = kTileDepth * kPanelColumns<T>;
  const int64_t end = std::min(b.width, begin + tile), next_end = std::min(b.width, next + tile);
  if (b.grad_weight != nullptr) {
    const int64_t rows_at_once = b.skips_zeros ? kStackRows : kTileDepth;
    for (int64_t row = 0; row < b.stacked; row += rows_at_once) {
      const int64_t depth = std::min(rows_at_once, b.stacked - row);
      if (row + depth == b.stacked) prefetch(b.features, b.batch, b.width, next, next_end);
      if (b.skips_zeros) {
        for (int64_t k = begin; k < end; k += kMaskBits) {
          add_weight_gradient_nonzero(b, rows, row, depth, k, std::min(end, k + kMaskBits), scratch);
        }
        continue;
      }
      pack_stack(b, rows, row, depth, begin, end, scratch);
      Product<T>{b.bce.original + row * b.bce.stride, classes, 1, b.bce.stride, depth, scratch, panel_stride,
                 end - begin, b.grad_weight + begin, b.width, row > 0}
          .run();
    }
    for (int64_t c = 0; c < classes && b.rounded_grad_weight != nullptr; ++c) {
      const int64_t at = c * b.width + begin;
      convert(b.grad_weight + at, end - begin, b.rounded_grad_weight + at);
    }
  }
  if (!b.wants_grad_features()) return;
  for (int64_t c = 0; c < classes; c += kTileDepth) {
    const int64_t depth = std::min(kTileDepth, classes - c);
    pack_weight_rows(b, c, depth, begin, end, scratch);
    prefetch(b.weight + c * b.width, depth, b.width, next, next_end);
    Product<T>{b.bce.original + c, b.stacked, b.bce.stride, 1, depth, scratch, panel_stride, end - begin,
               stack_gradient, tile, c > 0 || !b.first}
        .run();
  }
  if (!b.last) return;
  if (b.stacked > b.batch) {
    // In place on V, whose rows lie close together; those of the result evict each other where n is a power of two.
    const MapBackward<T> task{end - begin,
                              b.minmax,
                              b.features + begin,
                              stack_gradient + b.batch * tile,
                              stack_gradient,
                              nullptr,
                              b.statistics,
                              b.bce.sums,
                              b.width,
                              tile};
    map_backward(task, rows, b.batch, stack_gradient, tile);
  }
  for (int64_t i = 0; i < b.batch; ++i) {
    const T* row = stack_gradient + i * tile;
    const int64_t at = i * b.width + begin;
    if (b.rounded_grad_features != nullptr) {
      convert(row, end - begin, b.rounded_grad_features + at);
    } else {
      std::copy(row, row + (end - begin), b.grad_features + at);
    }
  }
}

template <typename T>
int64_t tile_scratch_elements(int64_t tile) {
  return std::max(kStackRows * (kMaskBits + kColumnTilePadding), kTileDepth * (tile + kPanelColumns<T>));
}

}  // namespace

template <typename T>
constexpr FusedKernels<T> kFusedKernels{kPanelColumns<T>,       kMostTileColumns<T>,
                                        weight_panel_columns<T>, kGroupRows * kRowPitch,
                                        tile_scratch_elements<T>, read_stored<T>,
                                        pack_weight<T>,         logits<T>,
                                        mark_nonfinite_rows<T>, grad_products<T>};
