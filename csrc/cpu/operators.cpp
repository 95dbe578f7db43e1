// Registration of the operators for CPU tensors.
#include "cpu/device.h"
#include "operators/identical_disparate.h"
#include "operators/fused_indeed_loss.h"
#include "operators/registration.h"
#include "operators/scale_gradients.h"
#include "operators/six_way_bce.h"

INDEED_LIBRARY_IMPL(INDEED_OPERATOR_NAMESPACE, CPU, m) { INDEED_REGISTER_OPERATORS(m, indeed::cpu); }
