// The first two passes of the fused loss: the weight packed, and the logits of samples and of their identical features.
// Included once per instruction set, after row_kernels_impl.h and sparse_product_impl.h.

namespace {

// Most rows of the stack multiplied by the weight together, so that it is read that often less, and the distance
// between them in cache, which spreads them over the sets of the first level. Where every element counts and the second
// level is small they are 48 KiB of float32, near enough to the first level.
constexpr int64_t kGroupRows = 256, kDenseGroupRows = INDEED_VECTOR_BYTES == 64 ? 240 : 48;
constexpr int64_t kRowPitch = kTileDepth + 16;

// Classes of a panel of the transposed weight.
template <typename T>
int64_t weight_panel_columns(bool skips_zeros) {
  return skips_zeros ? kSparseColumns<T> : kPanelColumns<T>;
}

template <typename T>
bool all_finite(const T* data, int64_t rows, int64_t columns, int64_t stride) {
  T nonfinite = 0;
  for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd reduction(+ : nonfinite)
    for (int64_t k = 0; k < columns; ++k) nonfinite += data[i * stride + k] * T(0);
  }
  return nonfinite == T(0);
}

// panel[k][c] = weight[first + c][k], zero beyond the last class.
template <typename T>
void pack_weight(const FusedChunk<T>& b, int64_t begin, int64_t end) {
  const int64_t columns = weight_panel_columns<T>(b.skips_zeros), pieces = (b.width + kPackDepth - 1) / kPackDepth;
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t first = piece / pieces * columns, used = std::min(columns, b.bce.classes - first);
    const int64_t k = piece % pieces * kPackDepth, depth = std::min(kPackDepth, b.width - k);
    const int64_t pitch = b.skips_zeros ? whole_vectors<T>(used) * VectorOf<T>::kLanes : columns;
    for (int64_t c = first; c < first + used && b.stored_weight != nullptr; ++c) {
      const int64_t at = c * b.width + k;
      read_stored(b.stored_weight, b.stored_type, at, depth, b.converted_weight + at);
    }
    const T* weight = b.weight + first * b.width + k;
    T* panel = b.weight_panels + first * b.width + k * pitch;
    if (used < pitch) std::fill(panel, panel + pitch * depth, T(0));
    transpose(weight, b.width, used, depth, panel, pitch);
    if (b.skips_zeros && !all_finite(weight, used, depth, b.width)) b.weight_is_finite->store(false);
  }
}

// Rows of the stack [f; I] worked on together: those of some samples, then those of some identical features.
struct RowGroup {
  int64_t first_sample, samples;
  const int64_t* own;  // rows
  int64_t own_count;

  int64_t size() const { return samples + own_count; }
};

template <typename T>
T* group_row_logits(const FusedChunk<T>& b, const RowGroup& group, int64_t at) {
  return at < group.samples ? b.bce.original + (group.first_sample + at) * b.bce.stride
                            : b.bce.identical + group.own[at - group.samples] * b.bce.stride;
}

// Columns [k, k + depth) of the rows of a group, `scratch`, times the weight.
template <typename T>
void multiply_group(const FusedChunk<T>& b, const RowGroup& group, const T* scratch, int64_t k, int64_t depth) {
  constexpr int64_t kColumns = kPanelColumns<T>;
  for (int64_t c = 0; c < b.bce.classes; c += kColumns) {
    const T* panel = b.weight_panels + c * b.width + k * kColumns;
    const int64_t columns = std::min(kColumns, b.bce.classes - c);
    for (int64_t first = 0, count; first < group.size(); first += count) {
      count = tile_rows<T>(group.size() - first, columns);
      ScatteredRows<T, kRowPitch> tile{scratch + first * kRowPitch, {}};
      for (int64_t i = 0; i < count; ++i) tile.to[i] = c + group_row_logits(b, group, first + i);
      multiply(tile, count, 1, panel, depth, columns, k > 0);
    }
  }
}

// The rows of a group as left operands of a product that skips zeros: samples where they lie, what was formed of
// the others from scratch memory.
template <typename T>
struct NonzeroRows {
  static constexpr int64_t step = 1;
  const T* from[kGroupRows];
  T* to[kGroupRows];
  const uint64_t* masks[kGroupRows];
  int64_t column = 0, class_index = 0;

  const T* left(int64_t t) const { return from[t] + column; }
  T* out(int64_t t) const { return to[t] + class_index; }
  const uint64_t* mask(int64_t t) const { return masks[t] + column / kMaskBits; }
};

// As multiply_group, skipping zeros. Panels of as many k as fit the first-level cache are used by all rows.
template <typename T>
void multiply_group_nonzero(const FusedChunk<T>& b, const RowGroup& group, const T* scratch, int64_t k, int64_t depth) {
  constexpr int64_t kColumns = kSparseColumns<T>, kLanes = VectorOf<T>::kLanes;
  const int64_t words = std::max<int64_t>(1, mask_words(depth));
  uint64_t everywhere[kMaskWords];
  for (int64_t w = 0; w < words; ++w) everywhere[w] = all_of(std::min(kMaskBits, depth - w * kMaskBits));
  const bool finite = b.weight_is_finite->load(std::memory_order_relaxed);
  NonzeroRows<T> rows;
  for (int64_t i = 0; i < group.size(); ++i) {
    const bool is_sample = i < group.samples;
    const int64_t at = is_sample ? group.first_sample + i : b.batch + group.own[i - group.samples];
    rows.from[i] = is_sample ? b.features + at * b.width + k : scratch + i * kRowPitch;
    rows.to[i] = group_row_logits(b, group, i);
    uint64_t* masks = b.nonzero + at * mask_words(b.width) + k / kMaskBits;
    if (b.first) find_nonzeros(rows.from[i], depth, masks);
    rows.masks[i] = finite ? masks : everywhere;
  }
  for (int64_t c = 0; c < b.bce.classes; c += kColumns) {
    const int64_t vectors = whole_vectors<T>(std::min(kColumns, b.bce.classes - c)), pitch = vectors * kLanes;
    const int64_t step = std::clamp<int64_t>(kSparseVectors / vectors, 1, kMaskWords);
    rows.class_index = c;
    for (int64_t w = 0; w < words; w += step) {
      rows.column = w * kMaskBits;
      const T* panel = b.weight_panels + c * b.width + (k + rows.column) * pitch;
      multiply_nonzero(rows, group.size(), std::min(step, words - w), panel, pitch, vectors, k + w > 0);
    }
  }
}

// Logits of a group, its rows brought into cache a depth of kTileDepth at a time.
template <typename T>
void group_logits(const FusedChunk<T>& b, const RowView& rows, const RowGroup& group, T* scratch) {
  const int64_t width = b.width;
  const auto source = [&](int64_t i) { return b.features + rows.source[group.own[i]] * width; };
  const auto partner = [&](int64_t i) { return b.features + rows.partner[group.own[i]] * width; };
  for (int64_t i = 0; b.first && i < group.own_count; ++i) {
    b.statistics[group.own[i]] = map_statistics(source(i), partner(i), width, b.minmax, b.eps);
  }
  int64_t k = 0;
  do {
    const int64_t depth = std::min(kTileDepth, width - k);
    for (int64_t i = 0; i < group.samples && !b.skips_zeros; ++i) {
      const T* sample = b.features + (group.first_sample + i) * width + k;
      std::copy(sample, sample + depth, scratch + i * kRowPitch);
    }
    for (int64_t i = 0; i < group.own_count; ++i) {
      form_identical(source(i) + k, partner(i) + k, depth, b.statistics[group.own[i]],
                     scratch + (group.samples + i) * kRowPitch);
    }
    if (b.skips_zeros) {
      multiply_group_nonzero(b, group, scratch, k, depth);
    } else {
      multiply_group(b, group, scratch, k, depth);
    }
    k += depth;
  } while (k < width);
}

template <typename T>
void logits(const FusedChunk<T>& b, const RowView& rows, int64_t begin, int64_t end, T* scratch) {
  const int64_t last_own = b.bce.term_mask != 0 ? rows.own_begin[end] : rows.own_begin[begin];
  const int64_t most = b.skips_zeros ? kGroupRows : kDenseGroupRows;
  int64_t sample = begin, own = rows.own_begin[begin];
  while (sample < end || own < last_own) {
    RowGroup group{};
    group.first_sample = sample;
    group.samples = std::min(most / 2, end - sample);
    group.own = rows.own + own;
    group.own_count = std::min(most - group.samples, last_own - own);
    // Until the last samples, as many rows of their own as there are samples: they read the same features.
    if (sample + group.samples < end) group.own_count = std::min(group.own_count, most / 2);
    group_logits(b, rows, group, scratch);
    sample += group.samples;
    own += group.own_count;
  }
}

}  // namespace
