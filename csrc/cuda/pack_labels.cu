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

// One warp per word, one lane per class. What is no label is positive and not valid, which no label is.
template <typename Label>
__global__ void __launch_bounds__(kThreads) pack_labels_kernel(const Label* labels, int64_t batch, int64_t classes,
                                                               int64_t words, int32_t* positive_bits,
                                                               int32_t* valid_bits) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count();
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); at < batch * words; at += warps) {
    const int64_t sample = at / words, c = at % words * kWordBits + lane_index();
    Comparable<Label> label = -1;
    if (c < classes) label = static_cast<Comparable<Label>>(labels[sample * classes + c]);
    const unsigned positive = __ballot_sync(kFullMask, !(label == 0 || label == -1));
    const unsigned valid = __ballot_sync(kFullMask, label == 0 || label == 1);
    if (lane_index() == 0) {
      positive_bits[at] = static_cast<int32_t>(positive);
      valid_bits[at] = static_cast<int32_t>(valid);
    }
  }
}

template <typename Label>
std::tuple<Tensor, Tensor> pack(const Device& device, const Tensor& labels) {
  const int64_t batch = labels.size(0), classes = labels.size(1), words = label_word_count(classes);
  const Tensor positive_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  const Tensor valid_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  if (batch * words > 0) {
    const dim3 grid = grid_size(std::min<int64_t>(cdiv(batch * words, kThreads / kWarp), 1 << 16));
    INDEED_LAUNCH(pack_labels_kernel<Label>, grid, dim3(kThreads), 0, device.stream(),
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
