// Division by a number that is known before a kernel starts. Free of CUDA, so that plans can hold it and plain C++ can
// test it.
#pragma once

#include <cstdint>

namespace m2o_fast {

// What a GPU has no instruction for: it divides 64-bit numbers by calling a loop. Here the host does the division, and
// the kernel multiplies by the reciprocal, rounded up to 64 bits (Granlund and Montgomery, 1994, section 4).
class Divisor {
 public:
  struct Result {
    int64_t quotient, remainder;
  };

  Divisor() = default;
  // divisor >= 0; 0 is taken for 1: what is empty has nothing that could be divided.
  explicit constexpr Divisor(int64_t divisor) : divisor_(divisor > 0 ? divisor : 1) {
    while (uint64_t{1} << shift_ < static_cast<uint64_t>(divisor_)) {
      ++shift_;
    }
    reciprocal_ = static_cast<uint64_t>(((Wide{1} << (63 + shift_)) + divisor_ - 1) / divisor_);
  }

  // value >= 0
  constexpr int64_t quotient(int64_t value) const {
    return static_cast<int64_t>(static_cast<uint64_t>(Wide{2 * static_cast<uint64_t>(value)} * reciprocal_ >> 64) >>
                                shift_);
  }
  constexpr Result divide(int64_t value) const { return {quotient(value), value - quotient(value) * divisor_}; }

 private:
  using Wide = unsigned __int128;
  int64_t divisor_ = 1;
  uint64_t reciprocal_ = uint64_t{1} << 63;
  int32_t shift_ = 0;
};

}  // namespace m2o_fast
