#include <atomic>
#include <cstddef>

#include "cpu/label_kernels.h"
#include "cpu/labels.h"
#include "cpu/parallel.h"

namespace indeed::cpu {
namespace {

void pack(const Tensor& labels, PackRow pack_row, int32_t* positive_bits, int32_t* valid_bits) {
  const int64_t batch = labels.size(0), classes = labels.size(1), words = label_word_count(classes);
  const auto* data = static_cast<const std::byte*>(labels.const_data_ptr());
  const int64_t row_bytes = classes * static_cast<int64_t>(labels.element_size());
  std::atomic<int64_t> invalid{-1};
  parallel_rows(batch, classes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t found = pack_row(data + i * row_bytes, classes, reinterpret_cast<uint32_t*>(positive_bits + i * words),
                                     reinterpret_cast<uint32_t*>(valid_bits + i * words));
      if (found >= 0) invalid = i * classes + found;
    }
  });
  if (invalid >= 0) {
    Tensor row = torch::stable::select(labels, 0, invalid / classes);
    const Tensor value = as_type(torch::stable::narrow(row, 0, invalid % classes, 1), ScalarType::Double);
    require(false, "labels: expected values in {-1, 0, 1}, got ", *value.const_data_ptr<double>(), " in row ",
            invalid / classes);
  }
}

PackRow pack_row_of(ScalarType type) {
  const PackKernels& kernels = pack_kernels();
  switch (type) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return kernels.uint8;
    case ScalarType::Char:
      return kernels.int8;
    case ScalarType::Short:
      return kernels.int16;
    case ScalarType::Int:
      return kernels.int32;
    case ScalarType::Long:
      return kernels.int64;
    case ScalarType::Half:
      return kernels.float16;
    case ScalarType::BFloat16:
      return kernels.bfloat16;
    case ScalarType::Float:
      return kernels.float32;
    case ScalarType::Double:
      return kernels.float64;
    default:
      throw std::invalid_argument("labels: expected bool, integer or float labels");
  }
}

}  // namespace

std::tuple<Tensor, Tensor> pack_labels(Tensor labels_any) {
  require_matrix("labels", labels_any);
  const Tensor labels = to_contiguous(labels_any);
  const int64_t batch = labels.size(0), words = label_word_count(labels.size(1));
  Tensor positive_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  Tensor valid_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  pack(labels, pack_row_of(labels.scalar_type()), positive_bits.mutable_data_ptr<int32_t>(),
       valid_bits.mutable_data_ptr<int32_t>());
  return {positive_bits, valid_bits};
}

}  // namespace indeed::cpu
