// Gradients that were made in the forward, times the upstream one, in place.
#pragma once

#include <array>

#include "operators/arguments.h"

namespace indeed {

// features, weight, bias of one type, and empty where they are not wanted; scale [] in the type of sums.
template <typename Device>
void scale_gradients(Tensor features, Tensor weight, Tensor bias, Tensor scale) {
  require(scale.numel() == 1, "scale: expected one value, got ", scale.numel());
  const Device device(features);
  for (const Tensor* gradient : {&weight, &bias}) {
    require_dtype("gradients", *gradient, features.scalar_type());
    device.require_same("gradients", *gradient);
  }
  for (const Tensor* gradient : {&features, &weight, &bias}) {
    require(gradient->is_contiguous(), "gradients: expected contiguous tensors");
  }
  device.require_same("scale", scale);
  require_dtype("scale", scale, accumulation_type("gradients", features.scalar_type()));
  const std::array<Tensor, 3> gradients{features, weight, bias};
  switch (features.scalar_type()) {
    case ScalarType::Double:
      return device.template scale_gradients<double, double>(gradients, scale);
    case ScalarType::Float:
      return device.template scale_gradients<float, float>(gradients, scale);
    case ScalarType::BFloat16:
      return device.template scale_gradients<torch::headeronly::BFloat16, float>(gradients, scale);
    default:  // those of float16 are saved in float32
      require(false, "gradients: expected float32, float64 or bfloat16");
  }
}

}  // namespace indeed
