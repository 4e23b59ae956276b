// What the CPU bindings of the operators on images share beyond tensor.h.
#pragma once

#include <algorithm>

#include "simd.h"
#include "tensor.h"

namespace m2o_fast {

// Below this many numbers a second thread costs more than it brings.
inline constexpr int64_t kNumbersPerThread = 32768;
// From this size on, the output would only push x out of the caches: it is written past them.
inline constexpr int64_t kStreamedBytes = int64_t{1} << 23;

// Of parallel_for over items of so many numbers each.
inline int64_t grain_size(int64_t numbers_per_item) {
  return std::max<int64_t>(1, kNumbersPerThread / std::max<int64_t>(1, numbers_per_item));
}

// Calls body with a number of the storage type.
template <typename Body>
inline void for_type(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    default:
      return body(Half{});
  }
}

}  // namespace m2o_fast
