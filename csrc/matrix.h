// A row-major matrix in somebody else's memory, consecutive rows `stride` elements apart, as a tensor.
#pragma once

#include "arguments.h"

namespace indeed {

struct Matrix {
  void* data;
  int64_t rows, columns, stride;
  ScalarType dtype;
  torch::stable::Device device;

  Tensor view() const { return view({rows, columns}, {stride, 1}); }
  Tensor transposed() const { return view({columns, rows}, {1, stride}); }

 private:
  Tensor view(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides) const {
    return torch::stable::from_blob(data, {sizes.begin(), sizes.size()}, {strides.begin(), strides.size()}, device,
                                    dtype);
  }
};

}  // namespace indeed
