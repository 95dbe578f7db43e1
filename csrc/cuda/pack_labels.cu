#include <type_traits>

#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

// A type that holds every value of a label and -1: in float 1 + 1e-9 would be 1.
template <typename Label>
using Comparable = std::conditional_t<std::is_integral_v<Label>, int64_t,
                                      std::conditional_t<std::is_same_v<Label, double>, double, float>>;

// A lane per class; a warp has the labels of so many words on their way at once.
constexpr int kWords = 4;

// What is no label is positive and not valid, which no label is.
template <typename Label>
__global__ void __launch_bounds__(kThreads) pack_labels_kernel(const Label* labels, int64_t batch, int64_t classes,
                                                               int64_t words, int32_t* positive_bits,
                                                               int32_t* valid_bits) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * warp_count() * kWords;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index()) * kWords;
  for (int64_t sample = blockIdx.y; sample < batch; sample += gridDim.y) {
    for (int64_t first = begin; first < words; first += step) {
      Comparable<Label> label[kWords];
      INDEED_UNROLL
      for (int k = 0; k < kWords; ++k) {
        const int64_t c = (first + k) * kWordBits + lane_index();
        label[k] = c < classes ? static_cast<Comparable<Label>>(labels[sample * classes + c]) : Comparable<Label>(-1);
      }
      unsigned positive = 0, valid = 0;  // of the word that this lane writes
      INDEED_UNROLL
      for (int k = 0; k < kWords; ++k) {
        const unsigned positive_lanes = __ballot_sync(kFullMask, !(label[k] == 0 || label[k] == -1));
        const unsigned valid_lanes = __ballot_sync(kFullMask, label[k] == 0 || label[k] == 1);
        if (lane_index() == k) {
          positive = positive_lanes;
          valid = valid_lanes;
        }
      }
      const int64_t word = first + lane_index();
      if (lane_index() >= kWords || word >= words) continue;
      positive_bits[sample * words + word] = static_cast<int32_t>(positive);
      valid_bits[sample * words + word] = static_cast<int32_t>(valid);
    }
  }
}

template <typename Label>
std::tuple<Tensor, Tensor> pack(const Device& device, const Tensor& labels) {
  const int64_t batch = labels.size(0), classes = labels.size(1), words = label_word_count(classes);
  const Tensor positive_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  const Tensor valid_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  if (batch * words > 0) {
    constexpr int64_t kMaxRows = 65535, kMaxBlocks = 1 << 16;
    const dim3 block = block_size(cdiv(words, kWords) * kWarp, kThreads);
    const int64_t rows = std::min(batch, kMaxRows);
    const int64_t columns = std::min(cdiv(words * kWarp, kWords * int64_t{block.x}), kMaxBlocks / rows);
    INDEED_LAUNCH(pack_labels_kernel<Label>, grid_size(columns, rows), block, 0, device.stream(),
                  static_cast<const Label*>(labels.const_data_ptr()), batch, classes, words,
                  positive_bits.mutable_data_ptr<int32_t>(), valid_bits.mutable_data_ptr<int32_t>());
  }
  return {positive_bits, valid_bits};
}

}  // namespace

std::tuple<Tensor, Tensor> Device::pack_labels(Tensor labels_any) {
  require_matrix("labels", labels_any);
  const Device device(labels_any);
  const Tensor labels = contiguous(labels_any);
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return pack<uint8_t>(device, labels);
    case ScalarType::Char:
      return pack<int8_t>(device, labels);
    case ScalarType::Short:
      return pack<int16_t>(device, labels);
    case ScalarType::Int:
      return pack<int32_t>(device, labels);
    case ScalarType::Long:
      return pack<int64_t>(device, labels);
    case ScalarType::Half:
      return pack<torch::headeronly::Half>(device, labels);
    case ScalarType::BFloat16:
      return pack<torch::headeronly::BFloat16>(device, labels);
    case ScalarType::Float:
      return pack<float>(device, labels);
    case ScalarType::Double:
      return pack<double>(device, labels);
    default:
      throw std::invalid_argument("labels: expected bool, integer or float labels");
  }
}

}  // namespace indeed::cuda
