// What the operator families share on the CPU side: worded errors and the instruction sets to compile for.
// Free of torch and of CUDA, so that every source file may include it.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>

// A function marked M2O_CLONES is compiled once per instruction set, and the loader picks the best one for this CPU.
// Everything it calls must be M2O_INLINE: only inlined code is compiled for the wider instruction sets, too.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define M2O_HAS_CLONES
#define M2O_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define M2O_CLONES
#endif
#define M2O_INLINED __attribute__((always_inline))  // for lambdas, behind the parameters
#define M2O_INLINE inline M2O_INLINED
#if defined(__clang__)
#define M2O_UNROLLED _Pragma("unroll")
#else
#define M2O_UNROLLED _Pragma("GCC unroll 8")
#endif

namespace m2o_fast {

// Raises in Python as RuntimeError("<op>: <words>").
template <typename... Words>
void require(bool condition, const char* op, const Words&... words) {
  if (condition) {
    return;
  }
  std::ostringstream message;
  message << op << ": ";
  (message << ... << words);
  throw std::runtime_error(message.str());
}

constexpr int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace m2o_fast
