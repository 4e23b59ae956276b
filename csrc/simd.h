// Vectors of 32 bytes for the CPU kernels: loads that widen and stores that narrow the storage types of torch.
//
// Written in the compiler's vector extension, so that one source serves every CPU; M2O_KERNEL functions inline it. The
// number of lanes is the same everywhere: so is the order of every sum.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace m2o_fast {

using Floats = float __attribute__((vector_size(32)));
using Doubles = double __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(32)));
using LongWords = uint64_t __attribute__((vector_size(32)));

// Numbers of 16 bits as they lie in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
M2O_INLINE To read_as(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof(To));
  return to;
}

M2O_INLINE Words select(Words mask, Words yes, Words no) { return (mask & yes) | (~mask & no); }

// Sixteen numbers that lie as halves of eight words: those at even and those at odd places. Widened like this they need
// no shuffling between the lanes.
struct FloatPairs {
  Floats even, odd;
};

M2O_INLINE FloatPairs operator+(FloatPairs a, FloatPairs b) { return {a.even + b.even, a.odd + b.odd}; }
M2O_INLINE FloatPairs operator-(FloatPairs a, FloatPairs b) { return {a.even - b.even, a.odd - b.odd}; }
M2O_INLINE FloatPairs operator*(FloatPairs a, FloatPairs b) { return {a.even * b.even, a.odd * b.odd}; }
M2O_INLINE FloatPairs operator+(FloatPairs a, float b) { return {a.even + b, a.odd + b}; }
M2O_INLINE FloatPairs operator-(FloatPairs a, float b) { return {a.even - b, a.odd - b}; }
M2O_INLINE FloatPairs operator*(FloatPairs a, float b) { return {a.even * b, a.odd * b}; }
M2O_INLINE FloatPairs& operator+=(FloatPairs& a, FloatPairs b) { return a = a + b; }

// Lane by lane: yes where value > 0, else no (also for NaN).
template <typename Vector>
M2O_INLINE Vector where_positive(Vector value, Vector yes, Vector no) {
  return value > 0 ? yes : no;
}
M2O_INLINE FloatPairs where_positive(FloatPairs value, FloatPairs yes, FloatPairs no) {
  return {where_positive(value.even, yes.even, no.even), where_positive(value.odd, yes.odd, no.odd)};
}

M2O_INLINE float sum_of(Floats v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
M2O_INLINE float sum_of(FloatPairs v) { return sum_of(v.even + v.odd); }
M2O_INLINE double sum_of(Doubles v) { return (v[0] + v[2]) + (v[1] + v[3]); }

// A bfloat16 in the upper half of each word; below it is rubbish. To the nearest, ties to even; NaN stays NaN.
M2O_INLINE Words round_to_bfloat16(Floats value) {
  const Words bits = (Words)value;
  const Words rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return select((Words)(value != value), Words{} + 0x7fc00000, rounded);
}

// Halves are in the lower half of each word; the upper half is 0. A half's exponent and mantissa, moved to where a
// float has them, make a float too small by 2^112, subnormal numbers included. Infinity and NaN need the largest
// exponent.
M2O_INLINE Floats widen_half(Words bits) {
  const Words magnitude = (bits & 0x7fff) << 13;
  const Words finite = (Words)((Floats)magnitude * 0x1p112f);
  const Words special = magnitude | 0x7f800000;
  const Words is_special = (Words)((bits & 0x7c00) == 0x7c00);
  return (Floats)(select(is_special, special, finite) | ((bits & 0x8000) << 16));
}

// To the nearest, ties to even; too large numbers become infinite, NaN stays NaN.
M2O_INLINE Words narrow_half(Floats value) {
  const Words magnitude = (Words)value & 0x7fffffff;
  const Words sign = ((Words)value & 0x80000000) >> 16;
  // normal: rebias the exponent by 112 and round the 13 dropped bits away; a carry runs into the exponent, as it should
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // subnormal: adding 0.5 makes the float addition itself round at 2^-24, the unit of subnormal halves
  const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000;
  const Words infinite = select((Words)(magnitude > 0x7f800000), Words{} + 0x7e00, Words{} + 0x7c00);
  const Words finite = select((Words)(magnitude < (113u << 23)), subnormal, normal);
  return select((Words)(magnitude >= (143u << 23)), infinite, finite) | sign;
}

// How a storage type is computed with: Packed lies in memory, Vector holds as many numbers in the type Wide.
template <typename T>
struct Simd {  // float and double
  using Wide = T;
  using Packed = std::conditional_t<sizeof(T) == 4, Floats, Doubles>;
  using Vector = Packed;
  static M2O_INLINE Vector widen(Packed packed) { return packed; }
  static M2O_INLINE Packed narrow(Vector value) { return value; }
  static M2O_INLINE Vector load_wide(const Wide* from) { return read_as<Vector>(from); }
  static M2O_INLINE void store_wide(Wide* to, Vector value) { std::memcpy(to, &value, sizeof(value)); }
};

struct PairSimd {
  using Wide = float;
  using Packed = Words;
  using Vector = FloatPairs;
  static M2O_INLINE Vector load_wide(const Wide* from) {
    const Floats first = read_as<Floats>(from), second = read_as<Floats>(from + 8);
    return {__builtin_shuffle(first, second, Words{0, 2, 4, 6, 8, 10, 12, 14}),
            __builtin_shuffle(first, second, Words{1, 3, 5, 7, 9, 11, 13, 15})};
  }
  static M2O_INLINE void store_wide(Wide* to, Vector value) {
    const Floats first = __builtin_shuffle(value.even, value.odd, Words{0, 8, 1, 9, 2, 10, 3, 11});
    const Floats second = __builtin_shuffle(value.even, value.odd, Words{4, 12, 5, 13, 6, 14, 7, 15});
    std::memcpy(to, &first, sizeof(first));
    std::memcpy(to + 8, &second, sizeof(second));
  }
};

template <>
struct Simd<BFloat16> : PairSimd {
  static M2O_INLINE Vector widen(Packed packed) { return {(Floats)(packed << 16), (Floats)(packed & 0xffff0000)}; }
  static M2O_INLINE Packed narrow(Vector value) {
    return (round_to_bfloat16(value.even) >> 16) | (round_to_bfloat16(value.odd) & 0xffff0000);
  }
};

template <>
struct Simd<Half> : PairSimd {
  static M2O_INLINE Vector widen(Packed packed) { return {widen_half(packed & 0xffff), widen_half(packed >> 16)}; }
  static M2O_INLINE Packed narrow(Vector value) { return narrow_half(value.even) | (narrow_half(value.odd) << 16); }
};

template <typename T>
inline constexpr int64_t kLanes = 32 / sizeof(T);

// Registers of 32 bytes that a vector takes.
template <typename T>
inline constexpr int64_t kRegisters = sizeof(typename Simd<T>::Vector) / 32;

template <typename T>
M2O_INLINE typename Simd<T>::Vector load(const T* from) {
  return Simd<T>::widen(read_as<typename Simd<T>::Packed>(from));
}

// The first `count` lanes; the others are 0.
template <typename T>
M2O_INLINE typename Simd<T>::Vector load_first(const T* from, int64_t count) {
  typename Simd<T>::Packed packed{};
  std::memcpy(&packed, from, count * sizeof(T));
  return Simd<T>::widen(packed);
}

template <typename T>
M2O_INLINE void store(T* to, typename Simd<T>::Vector value) {
  const auto packed = Simd<T>::narrow(value);
  std::memcpy(to, &packed, sizeof(packed));
}

template <typename T>
M2O_INLINE void store_first(T* to, typename Simd<T>::Vector value, int64_t count) {
  const auto packed = Simd<T>::narrow(value);
  std::memcpy(to, &packed, count * sizeof(T));
}

// Whether stream() may write there.
M2O_INLINE bool is_aligned(const void* to) { return reinterpret_cast<uintptr_t>(to) % 16 == 0; }

// A copy past the caches, which spares reading the lines that are about to be overwritten. `to` is aligned to 16 bytes,
// and `bytes` is a multiple of them.
M2O_INLINE void stream_bytes(void* to, const void* from, uint64_t bytes) {
#if defined(__x86_64__)
  for (uint64_t part = 0; part < bytes / 16; ++part) {
    const auto* place = static_cast<const char*>(from) + 16 * part;
    _mm_stream_si128(static_cast<__m128i*>(to) + part, read_as<__m128i>(place));
  }
#else
  std::memcpy(to, from, bytes);
#endif
}

template <typename T>
M2O_INLINE void stream(T* to, typename Simd<T>::Vector value) {
  const auto packed = Simd<T>::narrow(value);
  stream_bytes(to, &packed, sizeof(packed));
}

// Streamed stores are weakly ordered: to be called once behind them.
M2O_INLINE void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace m2o_fast
