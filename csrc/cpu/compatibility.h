// Which samples of a batch form partial-coco pairs, eqs. (1) and (2), as rows of bits over the batch.
#pragma once

#include <cstdint>
#include <vector>

namespace indeed::cpu {

// A set of samples: a sorted list while it is small, bits over the batch once those are cheaper to combine.
struct SampleSets {
  std::vector<int64_t> begin;      // [sets + 1] offsets into members
  std::vector<int32_t> members;
  std::vector<int64_t> mask_of;    // [sets] index of its bits in masks, or -1
  std::vector<uint64_t> masks;
};

// Built in time linear in the number of labels present. The row of a sample is the union of the sets of samples
// that have one of its classes, less the samples whose label sets equal its own.
class Compatibility {
 public:
  // words: [batch, words_per_row] packed present labels.
  Compatibility(const uint32_t* words, int64_t batch, int64_t words_per_row);

  int64_t batch() const { return batch_; }
  int64_t row_words() const { return row_words_; }

  bool compatible(int64_t i, int64_t j) const;

  // Bits of the samples compatible with i into out [row_words()].
  void row(int64_t i, uint64_t* out) const;

 private:
  void collect_classes();
  void group_equal_rows();

  const uint32_t* words_;
  int64_t batch_, words_per_row_, row_words_;
  std::vector<int64_t> class_begin_;  // [batch + 1] offsets into classes_
  std::vector<int32_t> classes_;      // the classes of each sample, ascending
  SampleSets by_class_;
  std::vector<int32_t> group_;        // [batch] samples with equal label sets share one
  SampleSets by_group_;
};

}  // namespace indeed::cpu
