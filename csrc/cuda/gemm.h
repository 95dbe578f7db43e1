// Matrix products by cuBLAS, on torch's handle: its stream, its workspace, its switch for TF32.
#pragma once

#include "operators/arguments.h"

namespace indeed::cuda {

// A row-major matrix, or the transpose of one.
struct Matrix {
  void* data;
  int64_t rows, columns;
  ScalarType dtype;
  bool is_transposed = false;  // then stored as [columns, rows]

  Matrix transposed() const { return {data, columns, rows, dtype, !is_transposed}; }
};

class Gemm {
 public:
  // For the current device and stream.
  Gemm();

  // out = beta out + alpha a b. Operands of a half type are multiplied by tensor cores and summed in float32, in which
  // `out` may be as well; float32 is exact but where torch allows TF32.
  void operator()(const Matrix& out, const Matrix& a, const Matrix& b, double beta, double alpha) const;

 private:
  void* handle_ = nullptr;
};

}  // namespace indeed::cuda
