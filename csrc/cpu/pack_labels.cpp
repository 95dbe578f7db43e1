#include <atomic>
#include <cstring>
#include <type_traits>

#include "common/options.h"
#include "cpu/labels.h"
#include "cpu/parallel.h"

namespace indeed::cpu {
namespace {

struct WordBits {
  uint32_t positive, zero, unknown;
};

// A label in a type that holds every one of its values: in float 1 + 1e-9 would be 1.
template <typename T>
auto comparable(T label) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<int64_t>(label);
  } else {
    return static_cast<double>(label);
  }
}

// One label at a time, for words that hold unknown or invalid ones, and for the last of a row.
template <typename T>
WordBits classify_each(const T* labels, int64_t count) {
  WordBits bits{0, 0, 0};
  for (int64_t l = 0; l < count; ++l) {
    const auto value = comparable(labels[l]);
    bits.positive |= static_cast<uint32_t>(value == 1) << l;
    bits.zero |= static_cast<uint32_t>(value == 0) << l;
    bits.unknown |= static_cast<uint32_t>(value == -1) << l;
  }
  return bits;
}

// Bytes that are 0 or 1 to bits, eight at a time: the product moves bit 0 of byte k to bit 56 + k.
uint32_t gather_bits(const uint8_t* bytes) {
  uint32_t bits = 0;
  for (int64_t l = 0; l < kWordBits; l += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes + l, sizeof(eight));
    bits |= static_cast<uint32_t>((eight * 0x0102040810204080u) >> 56) << l;
  }
  return bits;
}

// An unsigned integer as wide as T, whose bits are compared in place of values: all but the sign of a zero is the same.
template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 1, uint8_t,
                                  std::conditional_t<sizeof(T) == 2, uint16_t,
                                                     std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

template <typename T>
constexpr bool kHasSignedZero = !std::is_integral_v<T>;

// A whole word of labels, in a loop that compilers vectorise.
template <typename T>
WordBits classify_word(const T* labels) {
  using Bits = BitsOf<T>;
  const T one_value = static_cast<T>(1.0f);
  Bits one, label[kWordBits], odd = 0;
  std::memcpy(&one, &one_value, sizeof(one));
  std::memcpy(label, labels, sizeof(label));
  uint8_t positive[kWordBits];
  for (int64_t l = 0; l < kWordBits; ++l) {
    positive[l] = label[l] == one;
    // Zero for 0 and 1.
    odd |= static_cast<Bits>(kHasSignedZero<T> ? label[l] << 1 : label[l]) * static_cast<Bits>(label[l] != one);
  }
  if (odd != 0) [[unlikely]]
    return classify_each(labels, kWordBits);
  const uint32_t bits = gather_bits(positive);
  return {bits, ~bits, 0};
}

template <typename T>
void pack(const Tensor& labels, int32_t* positive_bits, int32_t* valid_bits) {
  const int64_t batch = labels.size(0), classes = labels.size(1);
  const int64_t words = label_word_count(classes);
  const T* data = static_cast<const T*>(labels.const_data_ptr());
  std::atomic<int64_t> invalid{-1};
  parallel_rows(batch, classes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t w = 0; w < words; ++w) {
        const T* word = data + i * classes + w * kWordBits;
        const int64_t count = std::min(kWordBits, classes - w * kWordBits);
        const auto [positive, zero, unknown] =
            count == kWordBits ? classify_word(word) : classify_each(word, count);
        const uint32_t used = count == kWordBits ? 0xFFFFFFFFu : (1u << count) - 1u;
        const uint32_t invalid_bits = used & ~(positive | zero | unknown);
        if (invalid_bits != 0) invalid = i * classes + w * kWordBits + __builtin_ctz(invalid_bits);
        positive_bits[i * words + w] = static_cast<int32_t>(positive);
        valid_bits[i * words + w] = static_cast<int32_t>(used & ~unknown);
      }
    }
  });
  if (invalid >= 0) {
    require(false, "labels: expected values in {-1, 0, 1}, got ", static_cast<double>(data[invalid]), " in row ",
            invalid / classes);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> pack_labels(Tensor labels_any) {
  require_matrix("labels", labels_any);
  const Tensor labels = to_contiguous(labels_any);
  const int64_t batch = labels.size(0), words = label_word_count(labels.size(1));
  Tensor positive_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  Tensor valid_bits = empty_like_type(labels, {batch, words}, ScalarType::Int);
  int32_t* p = positive_bits.mutable_data_ptr<int32_t>();
  int32_t* k = valid_bits.mutable_data_ptr<int32_t>();
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      pack<uint8_t>(labels, p, k);
      break;
    case ScalarType::Char:
      pack<int8_t>(labels, p, k);
      break;
    case ScalarType::Short:
      pack<int16_t>(labels, p, k);
      break;
    case ScalarType::Int:
      pack<int32_t>(labels, p, k);
      break;
    case ScalarType::Long:
      pack<int64_t>(labels, p, k);
      break;
    case ScalarType::Half:
      pack<torch::headeronly::Half>(labels, p, k);
      break;
    case ScalarType::BFloat16:
      pack<torch::headeronly::BFloat16>(labels, p, k);
      break;
    case ScalarType::Float:
      pack<float>(labels, p, k);
      break;
    case ScalarType::Double:
      pack<double>(labels, p, k);
      break;
    default:
      require(false, "labels: expected bool, integer or float labels");
  }
  return {positive_bits, valid_bits};
}

}  // namespace indeed::cpu
