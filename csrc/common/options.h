// Integers by which operators know the options; the same table stands in indeed_ext/constants.py.
#pragma once

#include <cstdint>

namespace indeed {

enum class Strategy : int64_t { kAnchor = 0, kMatching = 1, kBalanced = 2 };
enum class Norm : int64_t { kL2 = 0, kMinmax = 1 };
enum class Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

// Bits of term_mask and of output_mask.
constexpr int64_t kIdenticalTerm = 1, kDisparateTerm = 2;
constexpr int64_t kGradFeatures = 1, kGradWeight = 2, kGradBias = 4;

constexpr int64_t kWordBits = 32;

// Elements of the buffers of a class chunk, and the width below which rows are computed in double.
#if !defined(INDEED_CHUNK_ELEMENTS)  // tests may build with fewer: so many take long where kernels are emulated
#define INDEED_CHUNK_ELEMENTS (int64_t{1} << 23)
#endif
constexpr int64_t kChunkElements = INDEED_CHUNK_ELEMENTS;
constexpr int64_t kNarrowWidth = 16;

}  // namespace indeed
