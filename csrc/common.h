// What the operator families share on the CPU side: worded errors and the instruction sets to compile for.
// Free of torch and of CUDA, so that every source file may include it.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>

// A function marked M2O_KERNEL is compiled for AVX2, FMA and F16C. Everything it calls must be M2O_INLINE: only inlined
// code is compiled for them, too. One instruction set, not several: vectors have 32 bytes, so AVX-512 would add
// registers only, and for CPUs without AVX2 (before 2013) the compiler takes three times as long as for all others.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define M2O_SIMD "x86-64-v3"
#define M2O_KERNEL __attribute__((target("arch=" M2O_SIMD)))
#else
#define M2O_SIMD "default"
#define M2O_KERNEL
#endif
#define M2O_INLINED __attribute__((always_inline))  // for lambdas, behind the parameters
#define M2O_INLINE inline M2O_INLINED
#if defined(__clang__)
#define M2O_UNROLLED _Pragma("unroll")
#else
#define M2O_UNROLLED _Pragma("GCC unroll 8")
#endif

namespace m2o_fast {

// Whether this CPU has the instructions that the kernels are compiled for. Nothing may be registered where it has not.
inline bool runs_here() {
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  __builtin_cpu_init();
  return __builtin_cpu_supports(M2O_SIMD);
#else
  return true;
#endif
}

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
