// Which samples form partial-coco pairs, eqs. (1) and (2), asked by warps.
#pragma once

#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {

// Up to this many words a sample they are compared one by one. In more, the few positive labels are looked for once,
// which is a launch more: those of a class chunk are without.
constexpr int64_t kDirectWords = Device::kMinClasses / kWordBits;
// Positive labels of a sample that are listed; those of a sample with more stand in its words alone.
constexpr uint32_t kListed = 64;

struct Labels {
  const uint32_t* positive_bits;  // [batch, words]
  int64_t words;
  const int32_t* classes;  // [batch, kListed] positive labels in ascending order, or null: compare words
  const uint32_t* count;   // [batch] number of positive labels
};

constexpr bool needs_lists(int64_t words) { return words > kDirectWords; }

// Queues the kernel that writes classes and count.
void list_classes(const Device& device, const uint32_t* positive_bits, int64_t batch, int64_t words, int32_t* classes,
                  uint32_t* count);

// One lane's pair. Most words are empty where labels are rare, and i is the same in all lanes, so they skip together.
// Pointers that move, as the compiler would work out the addresses of indices from the start for every word.
__device__ inline bool words_compatible(const Labels& labels, int64_t i, int64_t j) {
  const uint32_t *a = labels.positive_bits + i * labels.words, *b = labels.positive_bits + j * labels.words;
  const uint32_t* const end = a + labels.words;
  uint32_t common = 0, different = 0;
  for (; a < end && (common == 0 || different == 0); ++a, ++b) {
    const uint32_t mine = *a;
    if (mine == 0) continue;
    const uint32_t other = *b;
    common |= mine & other;
    different |= mine ^ other;
  }
  if (common == 0) return false;
  // j has all labels of i: it differs if it has one more in a word that was skipped.
  for (int64_t left = labels.words; left > 0 && different == 0; --left) different = *--a ^ *--b;
  return different != 0;
}

// One lane's pair of two listed samples.
__device__ inline bool lists_compatible(const Labels& labels, int64_t i, int64_t j) {
  const int32_t *a = labels.classes + i * kListed, *b = labels.classes + j * kListed;
  const uint32_t a_count = labels.count[i], b_count = labels.count[j];
  bool common = false, different = a_count != b_count;
  for (uint32_t x = 0, y = 0; x < a_count && y < b_count && !(common && different);) {
    const int32_t mine = a[x], other = b[y];
    common = common || mine == other;
    different = different || mine != other;
    x += mine <= other ? 1 : 0;
    y += other <= mine ? 1 : 0;
  }
  return common && different;
}

// One lane's pair of a listed sample and one that has more labels.
__device__ inline bool has_any_label_of(const Labels& labels, int64_t listed, int64_t sample) {
  for (uint32_t k = 0; k < labels.count[listed]; ++k) {
    const int32_t c = labels.classes[listed * kListed + k];
    if ((labels.positive_bits[sample * labels.words + c / kWordBits] >> (c % kWordBits)) & 1u) return true;
  }
  return false;
}

// One pair, by the whole warp: its lanes read neighbouring words.
__device__ inline bool warp_compatible(const Labels& labels, int64_t i, int64_t j) {
  const uint32_t *a = labels.positive_bits + i * labels.words, *b = labels.positive_bits + j * labels.words;
  bool common = false, different = labels.count[i] != labels.count[j];
  for (int64_t first = 0; first < labels.words && !(common && different); first += kWarp) {
    const int64_t w = first + lane_index();
    const uint32_t mine = w < labels.words ? a[w] : 0, other = w < labels.words ? b[w] : 0;
    common = __ballot_sync(kFullMask, (mine & other) != 0) != 0 || common;
    different = __ballot_sync(kFullMask, mine != other) != 0 || different;
  }
  return common && different;
}

// The lanes whose sample j forms a pair with i, which is the same in all lanes; those that do not ask get no.
__device__ inline unsigned compatible_lanes(const Labels& labels, int64_t i, int64_t j, bool asks) {
  if (labels.classes == nullptr) return __ballot_sync(kFullMask, asks && words_compatible(labels, i, j));
  bool compatible = false, neither_listed = false;
  if (asks) {
    const bool mine = labels.count[i] <= kListed, other = labels.count[j] <= kListed;
    if (mine && other) {
      compatible = lists_compatible(labels, i, j);
    } else if (mine || other) {  // of different numbers of labels
      compatible = mine ? has_any_label_of(labels, i, j) : has_any_label_of(labels, j, i);
    } else {
      neither_listed = true;
    }
  }
  unsigned found = __ballot_sync(kFullMask, compatible);
  for (unsigned rest = __ballot_sync(kFullMask, neither_listed); rest != 0; rest &= rest - 1) {
    const int lane = __ffs(rest) - 1;
    if (warp_compatible(labels, i, __shfl_sync(kFullMask, j, lane))) found |= 1u << lane;
  }
  return found;
}

}  // namespace indeed::cuda
