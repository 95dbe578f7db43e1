#include "cuda/gemm.h"

#include <cublas_v2.h>

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>

#include "cuda/launch.h"

namespace indeed::cuda {
namespace {

cudaDataType data_type(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return CUDA_R_16F;
    case ScalarType::BFloat16:
      return CUDA_R_16BF;
    case ScalarType::Float:
      return CUDA_R_32F;
    default:
      return CUDA_R_64F;
  }
}

int checked_size(int64_t size) {
  require(size <= INT_MAX, "a matrix product of ", size, " rows or columns is beyond cuBLAS");
  return static_cast<int>(size);
}

// A matrix as cuBLAS sees its memory, column by column: transposed.
struct ColumnMajor {
  const void* data;
  cublasOperation_t operation;
  int stride;

  explicit ColumnMajor(const Matrix& m)
      : data(m.data),
        operation(m.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
        stride(std::max(1, checked_size(m.is_transposed ? m.rows : m.columns))) {}
};

}  // namespace

#if defined(INDEED_CUDA_EMULATION)
Gemm::Gemm() = default;
#else
Gemm::Gemm() { TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle_)); }
#endif

void Gemm::operator()(const Matrix& out, const Matrix& a, const Matrix& b, double beta, double alpha) const {
  if (out.rows == 0 || out.columns == 0) return;
  count_launch();
  const auto handle = static_cast<cublasHandle_t>(handle_);
  // out transposed, which is what cuBLAS writes, is b transposed times a transposed.
  const ColumnMajor left(b), right(a), result(out);
  const int m = checked_size(out.columns), n = checked_size(out.rows), k = checked_size(a.columns);
  const float alpha32 = static_cast<float>(alpha), beta32 = static_cast<float>(beta);
  cublasStatus_t status;
  if (a.dtype == ScalarType::Double) {
    status = cublasDgemm(handle, left.operation, right.operation, m, n, k, &alpha, static_cast<const double*>(left.data),
                         left.stride, static_cast<const double*>(right.data), right.stride, &beta,
                         static_cast<double*>(out.data), result.stride);
  } else if (a.dtype == ScalarType::Float) {
    status = cublasSgemm(handle, left.operation, right.operation, m, n, k, &alpha32, static_cast<const float*>(left.data),
                         left.stride, static_cast<const float*>(right.data), right.stride, &beta32,
                         static_cast<float*>(out.data), result.stride);
  } else {
    status = cublasGemmEx(handle, left.operation, right.operation, m, n, k, &alpha32, left.data, data_type(b.dtype),
                          left.stride, right.data, data_type(a.dtype), right.stride, &beta32, out.data,
                          data_type(out.dtype), result.stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  }
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(std::string("indeed_ext: a matrix product failed: ") + cublasGetStatusString(status));
  }
}

}  // namespace indeed::cuda
