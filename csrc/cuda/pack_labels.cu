#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

// One warp per word, one lane per class.
template <typename Label>
__global__ void __launch_bounds__(kThreads) pack_labels_kernel(const Label* labels, int64_t batch, int64_t classes,
                                                               int64_t words, int32_t* present, int32_t* known) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count();
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); at < batch * words; at += warps) {
    const int64_t sample = at / words, c = at % words * kWordBits + lane_index();
    const float label = c < classes ? static_cast<float>(labels[sample * classes + c]) : -1.0f;
    const unsigned positive = __ballot_sync(kFullMask, label == 1.0f);
    const unsigned determined = __ballot_sync(kFullMask, label != -1.0f);
    if (lane_index() == 0) {
      present[at] = static_cast<int32_t>(positive);
      known[at] = static_cast<int32_t>(determined);
    }
  }
}

template <typename Label>
void launch(const Device& device, const Tensor& labels, int32_t* present, int32_t* known) {
  const int64_t batch = labels.size(0), classes = labels.size(1), words = (classes + kWordBits - 1) / kWordBits;
  if (batch * words == 0) return;
  const int64_t blocks = std::min<int64_t>((batch * words + kThreads / kWarp - 1) / (kThreads / kWarp), 1 << 16);
  INDEED_LAUNCH(pack_labels_kernel<Label>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, device.stream(),
                static_cast<const Label*>(labels.const_data_ptr()), batch, classes, words, present, known);
}

}  // namespace

std::tuple<Tensor, Tensor> Device::pack_labels(Tensor labels_any) {
  require(labels_any.dim() == 2, "labels: expected 2 dimensions, got ", labels_any.dim());
  const Device device(labels_any);
  const Tensor labels = dense(labels_any);
  const int64_t batch = labels.size(0), words = (labels.size(1) + kWordBits - 1) / kWordBits;
  const Tensor present = empty_like_type(labels, {batch, words}, ScalarType::Int);
  const Tensor known = empty_like_type(labels, {batch, words}, ScalarType::Int);
  int32_t* p = present.mutable_data_ptr<int32_t>();
  int32_t* k = known.mutable_data_ptr<int32_t>();
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      launch<uint8_t>(device, labels, p, k);
      break;
    case ScalarType::Char:
      launch<int8_t>(device, labels, p, k);
      break;
    case ScalarType::Short:
      launch<int16_t>(device, labels, p, k);
      break;
    case ScalarType::Int:
      launch<int32_t>(device, labels, p, k);
      break;
    case ScalarType::Long:
      launch<int64_t>(device, labels, p, k);
      break;
    case ScalarType::Half:
      launch<torch::headeronly::Half>(device, labels, p, k);
      break;
    case ScalarType::BFloat16:
      launch<torch::headeronly::BFloat16>(device, labels, p, k);
      break;
    case ScalarType::Float:
      launch<float>(device, labels, p, k);
      break;
    case ScalarType::Double:
      launch<double>(device, labels, p, k);
      break;
    default:
      require(false, "labels: expected bool, integer or float labels");
  }
  return {present, known};
}

}  // namespace indeed::cuda
