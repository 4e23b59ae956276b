// What the operator families share on the CPU side: worded errors and the instruction sets to compile for.
// Free of torch and of CUDA, so that every source file may include it.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>

// A function marked M2O_KERNEL is compiled for AVX2, FMA and F16C, one marked M2O_WIDE_KERNEL for AVX-512, too.
// Everything they call must be M2O_INLINE: only inlined code is compiled for them, too. What is bound by memory has
// vectors of 32 bytes and nothing to gain from AVX-512; products of matrices have twice the throughput with it. For
// CPUs without AVX2 (before 2013) the compiler takes three times as long as for all others.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define M2O_SIMD "x86-64-v3"
#define M2O_KERNEL __attribute__((target("arch=" M2O_SIMD)))
#define M2O_WIDE_SIMD "x86-64-v4"
#define M2O_WIDE_KERNEL __attribute__((target("arch=" M2O_WIDE_SIMD)))
#else
#define M2O_SIMD "default"
#define M2O_KERNEL
#define M2O_WIDE_SIMD ""
#define M2O_WIDE_KERNEL
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

// Whether it has those that M2O_WIDE_KERNEL functions are compiled for.
inline bool has_wide_vectors() {
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  __builtin_cpu_init();
  return __builtin_cpu_supports(M2O_WIDE_SIMD);
#else
  return false;
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
