// Bodies of the mining kernels. Included once per instruction set, as row_kernels_impl.h is.

namespace {

// Bytes that are 0 or 1 to bits, eight at a time: the product moves bit 0 of byte k to bit 56 + k.
template <int kCount>
inline uint64_t gather_bits(const uint8_t* bytes) {
  uint64_t bits = 0;
  for (int l = 0; l < kCount; l += 8) {
    uint64_t eight;
    __builtin_memcpy(&eight, bytes + l, sizeof(eight));
    bits |= ((eight * 0x0102040810204080u) >> 56) << l;
  }
  return bits;
}

uint64_t cheap_edges(uint32_t own, const uint32_t* __restrict hashes, const float* __restrict degrees,
                     CostEstimate estimate, float bound) {
  uint8_t cheap[64];
#pragma omp simd
  for (int l = 0; l < 64; ++l) {
    const uint32_t hash = edge_hash(own, hashes[l]);
    const float cost = (estimate.offset + estimate.derivative * static_cast<float>(static_cast<int32_t>(hash >> 1))) *
                       degrees[l];
    cheap[l] = cost <= bound ? 1 : 0;
  }
  return gather_bits<64>(cheap);
}

}  // namespace

constexpr MiningKernels kMiningKernels{cheap_edges};
