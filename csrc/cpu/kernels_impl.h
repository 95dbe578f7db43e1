// All kernels, included once per instruction set, inside a namespace of its own and after the compiler was told the
// target, so everything here has internal linkage.

#include "cpu/map_backward_impl.h"
#include "cpu/stored_types_impl.h"
#include "cpu/row_kernels_impl.h"
#include "cpu/tile_product_impl.h"
#include "cpu/transpose_impl.h"
#include "cpu/sparse_product_impl.h"
#include "cpu/logits_impl.h"
#include "cpu/grad_products_impl.h"
#include "cpu/mining_kernels_impl.h"
#include "cpu/pack_labels_impl.h"

constexpr KernelTables kKernels{kRowKernels<float>, kRowKernels<double>, kFusedKernels<float>, kFusedKernels<double>,
                                kPackKernels,        kMiningKernels};
