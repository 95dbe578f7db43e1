// Matrix products with cuBLAS' arguments, column by column, by torch on the CPU. Half types are widened, which is exact.
#include "cublas_v2.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "runtime.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Operand {
  void* data;
  ScalarType type;
  cublasOperation_t operation;
  int stride;

  // rows x columns once the operation is done.
  bool fits(int rows, int columns) const { return stride >= (operation == CUBLAS_OP_N ? rows : columns); }
  Tensor view(int rows, int columns) const {
    const bool plain = operation == CUBLAS_OP_N;
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    return torch::stable::from_blob(data, {rows, columns}, {plain ? 1 : stride, plain ? stride : 1}, cpu, type);
  }
};

cublasStatus_t multiply(const Operand& c, const Operand& a, const Operand& b, int m, int n, int k, double beta,
                        double alpha, ScalarType sums) {
  if (m < 0 || n < 0 || k < 0 || !a.fits(m, k) || !b.fits(k, n) || !c.fits(m, n)) return CUBLAS_STATUS_INVALID_VALUE;
  if (cuda_emulation::idle) return CUBLAS_STATUS_SUCCESS;
  Tensor target = c.view(m, n);
  Tensor out = torch::stable::to(target, sums);
  if (beta == 0) torch::stable::zero_(out);
  const Tensor left = torch::stable::to(a.view(m, k), sums), right = torch::stable::to(b.view(k, n), sums);
  aoti_torch_cpu_addmm_out(out.get(), out.get(), left.get(), right.get(), beta, alpha);
  if (out.data_ptr() != target.data_ptr()) torch::stable::copy_(target, out);
  return CUBLAS_STATUS_SUCCESS;
}

ScalarType scalar_type(cudaDataType type) {
  switch (type) {
    case CUDA_R_16F:
      return ScalarType::Half;
    case CUDA_R_16BF:
      return ScalarType::BFloat16;
    case CUDA_R_32F:
      return ScalarType::Float;
    default:
      return ScalarType::Double;
  }
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t) { return "CUBLAS_STATUS_INVALID_VALUE"; }

cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                            const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b,
                            cudaDataType b_type, int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                            cublasComputeType_t, cublasGemmAlgo_t) {
  return multiply({c, scalar_type(c_type), CUBLAS_OP_N, ldc}, {const_cast<void*>(a), scalar_type(a_type), transa, lda},
                  {const_cast<void*>(b), scalar_type(b_type), transb, ldb}, m, n, k, *static_cast<const float*>(beta),
                  *static_cast<const float*>(alpha), ScalarType::Float);
}

cublasStatus_t cublasSgemm(cublasHandle_t, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                           const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                           float* c, int ldc) {
  constexpr ScalarType kType = ScalarType::Float;
  return multiply({c, kType, CUBLAS_OP_N, ldc}, {const_cast<float*>(a), kType, transa, lda},
                  {const_cast<float*>(b), kType, transb, ldb}, m, n, k, *beta, *alpha, kType);
}

cublasStatus_t cublasDgemm(cublasHandle_t, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                           const double* alpha, const double* a, int lda, const double* b, int ldb, const double* beta,
                           double* c, int ldc) {
  constexpr ScalarType kType = ScalarType::Double;
  return multiply({c, kType, CUBLAS_OP_N, ldc}, {const_cast<double*>(a), kType, transa, lda},
                  {const_cast<double*>(b), kType, transb, ldb}, m, n, k, *beta, *alpha, kType);
}
