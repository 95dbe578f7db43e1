// Registration of the operators for CUDA tensors, or, in an emulated build, for the CPU tensors that stand in for them.
#include "cuda/products.h"
#include "operators/identical_disparate.h"
#include "operators/registration.h"
#include "operators/scale_gradients.h"
#include "operators/six_way_bce.h"

#if defined(INDEED_CUDA_EMULATION)
#define INDEED_DISPATCH_KEY CPU
#else
#define INDEED_DISPATCH_KEY CUDA
#endif

INDEED_LIBRARY_IMPL(INDEED_OPERATOR_NAMESPACE, INDEED_DISPATCH_KEY, m) {
  INDEED_REGISTER_OPERATORS(m, indeed::cuda);
}
