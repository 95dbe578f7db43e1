#include <atomic>

#include "common/options.h"
#include "operators.h"
#include "parallel.h"

namespace indeed {
namespace {

template <typename T>
void pack(const Tensor& labels, int32_t* present, int32_t* known) {
  const int64_t batch = labels.size(0), classes = labels.size(1);
  const int64_t words = (classes + kWordBits - 1) / kWordBits;
  const T* data = static_cast<const T*>(labels.const_data_ptr());
  std::atomic<int64_t> invalid{-1};
  parallel_rows(batch, classes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t w = 0; w < words; ++w) {
        const T* word = data + i * classes + w * kWordBits;
        const int64_t count = std::min(kWordBits, classes - w * kWordBits);
        uint32_t positive = 0, unknown = 0, zero = 0;
        for (int64_t l = 0; l < count; ++l) {
          const float value = static_cast<float>(word[l]);
          positive |= static_cast<uint32_t>(value == 1.0f) << l;
          zero |= static_cast<uint32_t>(value == 0.0f) << l;
          unknown |= static_cast<uint32_t>(value == -1.0f) << l;
        }
        const uint32_t used = count == kWordBits ? 0xFFFFFFFFu : (1u << count) - 1u;
        if ((positive | zero | unknown) != used) {
          invalid = i * classes + w * kWordBits + __builtin_ctz(used & ~(positive | zero | unknown));
        }
        present[i * words + w] = static_cast<int32_t>(positive);
        known[i * words + w] = static_cast<int32_t>(used & ~unknown);
      }
    }
  });
  if (invalid >= 0) {
    require(false, "labels: expected values in {-1, 0, 1}, got ", static_cast<double>(data[invalid]), " in row ",
            invalid / classes);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> pack_labels(Tensor labels_any) {
  require(labels_any.dim() == 2, "labels: expected 2 dimensions, got ", labels_any.dim());
  const Tensor labels = dense(labels_any);
  const int64_t batch = labels.size(0), words = (labels.size(1) + kWordBits - 1) / kWordBits;
  Tensor present = empty_like_type(labels, {batch, words}, ScalarType::Int);
  Tensor known = empty_like_type(labels, {batch, words}, ScalarType::Int);
  int32_t* p = present.mutable_data_ptr<int32_t>();
  int32_t* k = known.mutable_data_ptr<int32_t>();
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      pack<uint8_t>(labels, p, k);
      break;
    case ScalarType::Char:
      pack<int8_t>(labels, p, k);
      break;
    case ScalarType::Short:
      pack<int16_t>(labels, p, k);
      break;
    case ScalarType::Int:
      pack<int32_t>(labels, p, k);
      break;
    case ScalarType::Long:
      pack<int64_t>(labels, p, k);
      break;
    case ScalarType::Half:
      pack<torch::headeronly::Half>(labels, p, k);
      break;
    case ScalarType::BFloat16:
      pack<torch::headeronly::BFloat16>(labels, p, k);
      break;
    case ScalarType::Float:
      pack<float>(labels, p, k);
      break;
    case ScalarType::Double:
      pack<double>(labels, p, k);
      break;
    default:
      require(false, "labels: expected bool, integer or float labels");
  }
  return {present, known};
}

}  // namespace indeed
