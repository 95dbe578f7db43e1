// Matrix products through torch, so that the BLAS library and thread pool are the ones torch uses.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "arguments.h"

namespace indeed {

// A row-major matrix in somebody else's memory, consecutive rows `stride` elements apart.
struct Matrix {
  void* data;
  int64_t rows, columns, stride;
  ScalarType dtype;

  Tensor view() const { return view({rows, columns}, {stride, 1}); }
  Tensor transposed() const { return view({columns, rows}, {1, stride}); }

 private:
  Tensor view(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides) const {
    return torch::stable::from_blob(data, {sizes.begin(), sizes.size()}, {strides.begin(), strides.size()},
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype);
  }
};

// out = a @ b, or out += a @ b.
inline void gemm(const Matrix& out, const Tensor& a, const Tensor& b, bool accumulate) {
  if (out.rows == 0 || out.columns == 0) return;
  const Tensor target = out.view();
  if (accumulate) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(target.get(), target.get(), a.get(), b.get(), 1.0, 1.0));
  } else {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(target.get(), a.get(), b.get()));
  }
}

}  // namespace indeed
