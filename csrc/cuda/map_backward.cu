// The gradient of the features through the identical maps. Every sample gathers from its own and its incoming rows in
// a fixed order: no atomics.
#include <type_traits>

#include "cuda/device.h"
#include "cuda/lanes.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ MapSlope<T> slope_of(const MapBackward<T>& b, int64_t row, bool minmax) {
  return map_slope(b.statistics[row], minmax, static_cast<T>(b.sums[row].dot_identical),
                   static_cast<T>(b.sums[row].dot_disparate));
}

// Block (x, y): sample x, tile y of the features.
template <typename T, typename Out, bool kMinmax, int kLanes>
__global__ void __launch_bounds__(kThreads) map_backward_kernel(MapBackward<T> b, RowView rows, Out* out) {
  const int64_t sample = blockIdx.x;
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kLanes;
  if (j >= b.width) return;
  const Lanes<T, kLanes> f = load_lanes<kLanes>(b.features + sample * b.feature_stride + j);
  Lanes<T, kLanes> sum{};
  if (b.base != nullptr) sum = load_lanes<kLanes>(b.base + sample * b.gradient_stride + j);

  for (int64_t k = rows.own_begin[sample]; k < rows.own_begin[sample + 1]; ++k) {
    const int64_t row = rows.own[k], twin = rows.twin[row];
    const MapStatistics<T> s = b.statistics[row];
    const Lanes<T, kLanes> partner = load_lanes<kLanes>(b.features + rows.partner[row] * b.feature_stride + j);
    const Lanes<T, kLanes> t = load_lanes<kLanes>(b.map_gradient + row * b.gradient_stride + j);
    // The twin (partner, f) shares u: what it sends to its partner, this sample, is gathered here too.
    MapSlope<T> slope = slope_of(b, row, kMinmax);
    Lanes<T, kLanes> twin_t{};
    if (twin >= 0) {
      slope = slope + slope_of(b, twin, kMinmax);
      twin_t = load_lanes<kLanes>(b.map_gradient + twin * b.gradient_stride + j);
    }
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T u = f.lane[l] * partner.lane[l];
      const T dm = t.lane[l] * f.lane[l] + twin_t.lane[l] * partner.lane[l];
      sum.lane[l] += map_value(u, s) * t.lane[l] + product_gradient<kMinmax>(u, dm, s, slope) * partner.lane[l];
    }
    if (b.direct != nullptr) {
      const Lanes<T, kLanes> direct = load_lanes<kLanes>(b.direct + row * b.gradient_stride + j);
      INDEED_UNROLL
      for (int l = 0; l < kLanes; ++l) sum.lane[l] += direct.lane[l];
    }
  }

  for (int64_t k = rows.incoming_begin[sample]; k < rows.incoming_begin[sample + 1]; ++k) {
    const int64_t row = rows.incoming[k];
    if (rows.twin[row] >= 0) continue;  // its twin, an own row, carried it
    const MapStatistics<T> s = b.statistics[row];
    const MapSlope<T> slope = slope_of(b, row, kMinmax);
    const Lanes<T, kLanes> source = load_lanes<kLanes>(b.features + rows.source[row] * b.feature_stride + j);
    const Lanes<T, kLanes> t = load_lanes<kLanes>(b.map_gradient + row * b.gradient_stride + j);
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T u = source.lane[l] * f.lane[l];
      sum.lane[l] += product_gradient<kMinmax>(u, t.lane[l] * source.lane[l], s, slope) * source.lane[l];
    }
  }

  Lanes<Out, kLanes> result;
  INDEED_UNROLL
  for (int l = 0; l < kLanes; ++l) result.lane[l] = static_cast<Out>(sum.lane[l]);
  store_lanes(out + sample * b.feature_stride + j, result);
}

template <typename T, typename Out, bool kMinmax, int kLanes>
void launch(const MapBackward<T>& task, const RowView& rows, int64_t batch, Out* out, cudaStream_t stream) {
  const int64_t lanes = (task.width + kLanes - 1) / kLanes;
  const int64_t threads = std::min<int64_t>((lanes + kWarp - 1) / kWarp * kWarp, kThreads);
  const dim3 grid(static_cast<unsigned>(batch), static_cast<unsigned>((lanes + threads - 1) / threads));
  INDEED_LAUNCH((map_backward_kernel<T, Out, kMinmax, kLanes>), grid, dim3(static_cast<unsigned>(threads)), 0, stream,
                task, rows, out);
}

template <typename T, typename Out, bool kMinmax>
void launch_aligned(const MapBackward<T>& task, const RowView& rows, int64_t batch, Out* out, cudaStream_t stream) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  const bool aligned = task.width % kLanes == 0 && fits_lanes<kLanes>(task.features, task.feature_stride) &&
                       fits_lanes<kLanes>(task.map_gradient, task.gradient_stride) &&
                       fits_lanes<kLanes>(task.base, task.gradient_stride) &&
                       fits_lanes<kLanes>(task.direct, task.gradient_stride) &&
                       fits_lanes<kLanes>(static_cast<const Out*>(out), task.feature_stride);
  if (aligned) {
    launch<T, Out, kMinmax, kLanes>(task, rows, batch, out, stream);
  } else {
    launch<T, Out, kMinmax, 1>(task, rows, batch, out, stream);
  }
}

template <typename T, typename Out>
void launch_norm(const MapBackward<T>& task, const RowView& rows, int64_t batch, const Tensor& grad_features,
                 cudaStream_t stream) {
  Out* out = static_cast<Out*>(grad_features.mutable_data_ptr());
  if (task.minmax) {
    launch_aligned<T, Out, true>(task, rows, batch, out, stream);
  } else {
    launch_aligned<T, Out, false>(task, rows, batch, out, stream);
  }
}

}  // namespace

template <typename T>
void Device::map_backward(const MapBackward<T>& task, const Rows& rows, int64_t batch,
                          const Tensor& grad_features) const {
  if (batch == 0 || task.width == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (grad_features.scalar_type() == ScalarType::BFloat16) {
      return launch_norm<T, torch::headeronly::BFloat16>(task, rows.view(), batch, grad_features, stream_);
    }
  }
  launch_norm<T, T>(task, rows.view(), batch, grad_features, stream_);
}

template void Device::map_backward<float>(const MapBackward<float>&, const Rows&, int64_t, const Tensor&) const;
template void Device::map_backward<double>(const MapBackward<double>&, const Rows&, int64_t, const Tensor&) const;

}  // namespace indeed::cuda
