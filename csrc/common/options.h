// Integers by which operators know the options; the same table stands in indeed_ext/constants.py.
#pragma once

#include <cstdint>

namespace indeed {

enum class Strategy : int64_t { kAnchor = 0, kMatching = 1, kBalanced = 2 };
enum class Norm : int64_t { kL2 = 0, kMinmax = 1 };
enum class Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

constexpr int64_t kIdenticalBlock = 1, kDisparateBlock = 2;
constexpr int64_t kGradFeatures = 1, kGradWeight = 2, kGradBias = 4;

constexpr int64_t kWordBits = 32;

}  // namespace indeed
