// Registration of the operators for CPU tensors.
#include "cpu/device.h"
#include "identical_disparate.h"
#include "indeed_loss.h"
#include "registration.h"
#include "six_way_bce.h"

INDEED_LIBRARY_IMPL(INDEED_OPERATOR_NAMESPACE, CPU, m) { INDEED_REGISTER_OPERATORS(m, indeed::cpu); }
