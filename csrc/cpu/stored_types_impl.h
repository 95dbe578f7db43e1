// Elements stored in a half type, to and from the type of the arithmetic. Included once per instruction set.

namespace {

template <typename From, typename To>
inline void convert(const From* __restrict from, int64_t count, To* __restrict to) {
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<To>(from[k]);
}

template <typename T>
void read_stored(const void* stored, ScalarType type, int64_t offset, int64_t count, T* out) {
  switch (type) {
    case ScalarType::Half:
      return convert(static_cast<const Half*>(stored) + offset, count, out);
    case ScalarType::BFloat16:
      return convert(static_cast<const BFloat16*>(stored) + offset, count, out);
    default:
      return convert(static_cast<const T*>(stored) + offset, count, out);
  }
}

}  // namespace
