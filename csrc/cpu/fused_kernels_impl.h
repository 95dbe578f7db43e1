// Bodies of the fused kernels. Included once per instruction set, after row_kernels_impl.h and tile_product_impl.h.

namespace {

// Rows of the stack multiplied by the weight together, and the distance between them in cache: 48 KiB of float32, at a
// pitch that spreads them over the sets of the first level.
constexpr int64_t kGroupRows = 48;
constexpr int64_t kRowPitch = kTileDepth + 16;

// out[k][i] = in[i][k] for `rows` rows and `columns` columns; out rows are `out_stride` apart. Goes through a block
// that stays in cache whatever the strides, as strides of whole pages make neighbours evict each other.
template <typename T>
void transpose(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  constexpr int64_t kSide = 16;
  T block[kSide][kSide + 1];
  for (int64_t i0 = 0; i0 < rows; i0 += kSide) {
    const int64_t height = std::min(kSide, rows - i0);
    for (int64_t k0 = 0; k0 < columns; k0 += kSide) {
      const T* from = in + i0 * in_stride + k0;
      T* to = out + k0 * out_stride + i0;
      if (height == kSide && columns - k0 >= kSide) {
        for (int64_t i = 0; i < kSide; ++i) {
          for (int64_t k = 0; k < kSide; ++k) block[i][k] = from[i * in_stride + k];
        }
        for (int64_t k = 0; k < kSide; ++k) {
          for (int64_t i = 0; i < kSide; ++i) to[k * out_stride + i] = block[i][k];
        }
      } else {
        const int64_t width = std::min(kSide, columns - k0);
        for (int64_t k = 0; k < width; ++k) {
          for (int64_t i = 0; i < height; ++i) to[k * out_stride + i] = from[i * in_stride + k];
        }
      }
    }
  }
}

// panel[k][c] = weight[first + c][k], zero beyond the last class.
template <typename T>
void pack_weight(const FusedBlock<T>& b, int64_t begin, int64_t end) {
  constexpr int64_t kColumns = kPanelColumns<T>;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t first = p * kColumns, used = std::min(kColumns, b.bce.classes - first);
    T* panel = b.weight_panels + first * b.width;
    if (used < kColumns) std::fill(panel, panel + kColumns * b.width, T(0));
    transpose(b.weight + first * b.width, b.width, used, b.width, panel, kColumns);
  }
}

// Rows of the stack [f; I] worked on together: those of some samples, then those of some identical features.
struct RowGroup {
  int64_t first_sample, samples;
  const int64_t* own;  // rows
  int64_t own_count;

  int64_t size() const { return samples + own_count; }
};

// What a pass over a row that forms its identical features learns of the map besides.
template <typename T>
struct Gathered {
  T square_sum = 0, low_count = 0, high_count = 0;
};

// u f for l2, whose scale waits until the square sum is known; m f for minmax, which counts the elements at its ends.
template <typename T, bool kMinmax>
void form_and_gather(const T* __restrict source, const T* __restrict partner, int64_t depth, MapStatistics<T> s,
                     T* __restrict out, Gathered<T>& gathered) {
  T square_sum = 0, low_count = 0, high_count = 0;
#pragma omp simd reduction(+ : square_sum, low_count, high_count)
  for (int64_t k = 0; k < depth; ++k) {
    const T u = source[k] * partner[k];
    if (kMinmax) {
      low_count += u == s.low ? T(1) : T(0);
      high_count += u == s.high ? T(1) : T(0);
      out[k] = map_value(u, s) * source[k];
    } else {
      square_sum += u * u;
      out[k] = u * source[k];
    }
  }
  gathered.square_sum += square_sum;
  gathered.low_count += low_count;
  gathered.high_count += high_count;
}

// Before the rows of a group are formed: what of the statistics is needed for that.
template <typename T>
void begin_statistics(const FusedBlock<T>& b, const RowView& rows, const RowGroup& group) {
  for (int64_t i = 0; b.first && b.minmax && b.width > 0 && i < group.own_count; ++i) {
    const int64_t row = group.own[i];
    const auto [low, high] =
        product_range(b.features + rows.source[row] * b.width, b.features + rows.partner[row] * b.width, b.width);
    b.statistics[row] = minmax_statistics(low, high, 1, 1, b.eps);
  }
}

// After they are: all of the statistics, and for l2 the scale that the logits lack.
template <typename T>
void finish_statistics(const FusedBlock<T>& b, const RowGroup& group, const Gathered<T>* gathered) {
  for (int64_t i = 0; i < group.own_count; ++i) {
    MapStatistics<T>& s = b.statistics[group.own[i]];
    if (b.first && b.width == 0) {
      s = {};
    } else if (b.first && b.minmax) {
      s = minmax_statistics(s.low, s.high, static_cast<int64_t>(gathered[i].low_count),
                            static_cast<int64_t>(gathered[i].high_count), b.eps);
    } else if (b.first) {
      s = l2_statistics(gathered[i].square_sum, b.eps);
    }
    if (b.minmax) continue;
    T* logits = b.bce.identical + group.own[i] * b.bce.stride;
    for (int64_t c = 0; c < b.bce.classes; ++c) logits[c] *= s.scale;
  }
}

// Logits of a group, its rows brought into cache a depth of kTileDepth at a time.
template <typename T>
void group_logits(const FusedBlock<T>& b, const RowView& rows, const RowGroup& group, T* scratch) {
  constexpr int64_t kColumns = kPanelColumns<T>;
  const int64_t width = b.width, stride = b.bce.stride;
  Gathered<T> gathered[kGroupRows];
  begin_statistics(b, rows, group);
  int64_t k = 0;
  do {
    const int64_t depth = std::min(kTileDepth, width - k);
    for (int64_t i = 0; i < group.samples; ++i) {
      const T* source = b.features + (group.first_sample + i) * width + k;
      std::copy(source, source + depth, scratch + i * kRowPitch);
    }
    const auto form = b.minmax ? form_and_gather<T, true> : form_and_gather<T, false>;
    for (int64_t i = 0; i < group.own_count; ++i) {
      const int64_t row = group.own[i];
      form(b.features + rows.source[row] * width + k, b.features + rows.partner[row] * width + k, depth,
           b.statistics[row], scratch + (group.samples + i) * kRowPitch, gathered[i]);
    }
    for (int64_t c = 0; c < b.bce.classes; c += kColumns) {
      const T* panel = b.weight_panels + c * width + k * kColumns;
      const int64_t columns = std::min(kColumns, b.bce.classes - c);
      for (int64_t first = 0, count; first < group.size(); first += count) {
        count = tile_rows<T>(group.size() - first, columns);
        ScatteredRows<T, kRowPitch> tile{scratch + first * kRowPitch, {}};
        for (int64_t i = 0; i < count; ++i) {
          const int64_t at = first + i;
          tile.to[i] = c + (at < group.samples ? b.bce.original + (group.first_sample + at) * stride
                                               : b.bce.identical + group.own[at - group.samples] * stride);
        }
        multiply(tile, count, 1, panel, depth, columns, k > 0);
      }
    }
    k += depth;
  } while (k < width);
  finish_statistics(b, group, gathered);
}

template <typename T>
void fused_logits(const FusedBlock<T>& b, const RowView& rows, int64_t begin, int64_t end, T* scratch) {
  const int64_t last_own = b.bce.blocks != 0 ? rows.own_begin[end] : rows.own_begin[begin];
  int64_t sample = begin, own = rows.own_begin[begin];
  while (sample < end || own < last_own) {
    RowGroup group{};
    group.first_sample = sample;
    group.samples = std::min(kGroupRows / 2, end - sample);
    group.own = rows.own + own;
    group.own_count = std::min(kGroupRows - group.samples, last_own - own);
    // Until the last samples, as many rows of their own as there are samples: they read the same features.
    if (sample + group.samples < end) group.own_count = std::min(group.own_count, kGroupRows / 2);
    group_logits(b, rows, group, scratch);
    sample += group.samples;
    own += group.own_count;
  }
}

// The gradients by logits of samples [begin, end) and their own rows, transposed for the product by the stack.
template <typename T>
void transpose_gradients(const FusedBlock<T>& b, const RowView& rows, int64_t begin, int64_t end) {
  const int64_t classes = b.bce.classes, stride = b.bce.stride;
  transpose(b.bce.original + begin * stride, stride, end - begin, classes, b.transposed + begin, b.stacked);
  if (b.bce.blocks == 0) return;
  // Own rows follow one another in a partner vector; in a list each is a run of its own.
  for (int64_t k = rows.own_begin[begin]; k < rows.own_begin[end];) {
    int64_t run = 1;
    while (k + run < rows.own_begin[end] && rows.own[k + run] == rows.own[k] + run) ++run;
    transpose(b.bce.identical + rows.own[k] * stride, stride, run, classes, b.transposed + b.batch + rows.own[k],
              b.stacked);
    k += run;
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
void pack_stack(const FusedBlock<T>& b, const RowView& rows, int64_t first, int64_t count, int64_t begin, int64_t end,
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
          return (f * load_vector(partner + k) - s.low) * s.scale * f;
        },
        [&](int64_t k) { return map_value(source[k] * partner[k], s) * source[k]; });
  }
}

// Columns [begin, end) of `count` rows of the weight, as panels.
template <typename T>
void pack_weight_rows(const FusedBlock<T>& b, int64_t first, int64_t count, int64_t begin, int64_t end, T* panels) {
  for (int64_t c = 0; c < count; ++c) {
    copy_panel_row(b.weight + (first + c) * b.width + begin, end - begin, panels + c * kPanelColumns<T>,
                   kTileDepth * kPanelColumns<T>);
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

template <typename T>
void fused_gradients(const FusedBlock<T>& b, const RowView& rows, int64_t begin, int64_t next, int64_t strip,
                     T* stack_gradient, T* scratch) {
  const int64_t classes = b.bce.classes, panel_stride = kTileDepth * kPanelColumns<T>;
  const int64_t end = std::min(b.width, begin + strip), next_end = std::min(b.width, next + strip);
  if (b.grad_weight != nullptr) {
    for (int64_t row = 0; row < b.stacked; row += kTileDepth) {
      const int64_t depth = std::min(kTileDepth, b.stacked - row);
      pack_stack(b, rows, row, depth, begin, end, scratch);
      if (row + depth == b.stacked) prefetch(b.features, b.batch, b.width, next, next_end);
      Product<T>{b.transposed + row, classes, b.stacked, 1, depth, scratch, panel_stride, end - begin,
                 b.grad_weight + begin, b.width, row > 0}
          .run();
    }
  }
  if (b.grad_features == nullptr) return;
  for (int64_t c = 0; c < classes; c += kTileDepth) {
    const int64_t depth = std::min(kTileDepth, classes - c);
    pack_weight_rows(b, c, depth, begin, end, scratch);
    prefetch(b.weight + c * b.width, depth, b.width, next, next_end);
    Product<T>{b.bce.original + c, b.stacked, classes, 1, depth, scratch, panel_stride, end - begin, stack_gradient,
               strip, c > 0 || !b.first}
        .run();
  }
  if (!b.last) return;
  if (b.stacked > b.batch) {
    // In place on V, whose rows lie close together; those of the result evict each other where n is a power of two.
    const MapBackward<T> task{end - begin,
                              b.minmax,
                              b.features + begin,
                              stack_gradient + b.batch * strip,
                              stack_gradient,
                              nullptr,
                              b.statistics,
                              b.bce.sums,
                              b.width,
                              strip};
    map_backward(task, rows, b.batch, stack_gradient, strip);
  }
  for (int64_t i = 0; i < b.batch; ++i) {
    const T* row = stack_gradient + i * strip;
    std::copy(row, row + (end - begin), b.grad_features + i * b.width + begin);
  }
}

template <typename T>
int64_t strip_scratch_elements(int64_t strip) {
  return kTileDepth * strip;
}

}  // namespace

template <typename T>
constexpr FusedKernels<T> kFusedKernels{kPanelColumns<T>,       kGroupRows * kRowPitch, strip_scratch_elements<T>, pack_weight<T>,
                                        fused_logits<T>, transpose_gradients<T>, fused_gradients<T>};
