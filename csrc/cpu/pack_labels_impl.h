// Plain labels to words of bits. Included once per instruction set.

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

// One label at a time, for words that hold unknown or invalid ones.
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

// An unsigned integer as wide as T, whose bits are compared in place of values: all but the sign of a zero is the same.
template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 1, uint8_t,
                                  std::conditional_t<sizeof(T) == 2, uint16_t,
                                                     std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

template <typename T>
constexpr bool kHasSignedZero = !std::is_integral_v<T>;

// A whole word of labels, in loops that compilers vectorise.
template <typename T>
WordBits classify_word(const T* labels) {
  using Bits = BitsOf<T>;
  const T one_value = static_cast<T>(1.0f);
  Bits one, label[kWordBits], odd = 0;
  __builtin_memcpy(&one, &one_value, sizeof(one));
  __builtin_memcpy(label, labels, sizeof(label));
  uint8_t positive[kWordBits];
  for (int64_t l = 0; l < kWordBits; ++l) positive[l] = label[l] == one;
  // Zero for 0 and 1.
  for (int64_t l = 0; l < kWordBits; ++l) {
    odd |= label[l] == one ? Bits(0) : static_cast<Bits>(kHasSignedZero<T> ? label[l] << 1 : label[l]);
  }
  if (odd != 0) [[unlikely]]
    return classify_each(labels, kWordBits);
  const auto bits = static_cast<uint32_t>(gather_bits<kWordBits>(positive));
  return {bits, ~bits, 0};
}

// The words of a row; the index of a value that is no label, or -1.
template <typename T>
int64_t pack_row(const T* labels, int64_t classes, uint32_t* positive_bits, uint32_t* valid_bits) {
  int64_t invalid = -1;
  for (int64_t first = 0; first < classes; first += kWordBits, ++positive_bits, ++valid_bits) {
    const int64_t count = std::min(kWordBits, classes - first);
    T last[kWordBits]{};  // whole words are read
    if (count < kWordBits) std::copy(labels + first, labels + classes, last);
    const auto [positive, zero, unknown] = classify_word(count < kWordBits ? last : labels + first);
    const uint32_t used = count == kWordBits ? 0xFFFFFFFFu : (1u << count) - 1u;
    const uint32_t invalid_bits = used & ~(positive | zero | unknown);
    if (invalid_bits != 0) invalid = first + __builtin_ctz(invalid_bits);
    *positive_bits = positive;
    *valid_bits = used & ~unknown;
  }
  return invalid;
}

template <typename T>
int64_t pack_row_of(const void* labels, int64_t classes, uint32_t* positive_bits, uint32_t* valid_bits) {
  return pack_row(static_cast<const T*>(labels), classes, positive_bits, valid_bits);
}

}  // namespace

constexpr PackKernels kPackKernels{pack_row_of<uint8_t>, pack_row_of<int8_t>,  pack_row_of<int16_t>,
                                   pack_row_of<int32_t>, pack_row_of<int64_t>, pack_row_of<torch::headeronly::Half>,
                                   pack_row_of<torch::headeronly::BFloat16>,   pack_row_of<float>,
                                   pack_row_of<double>};
