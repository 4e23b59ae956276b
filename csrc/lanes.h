// How the CPU kernels of the families go through images: whole vectors and the rest, sums, writing past the caches.
// Free of torch: everything is inlined into M2O_KERNEL functions.
#pragma once

#include <cstring>
#include <type_traits>

#include "simd.h"

namespace m2o_fast {

// A number per plane, such as gamma or beta: [N, C] with any strides; [C] has sample stride 0.
template <typename Wide>
struct PlaneNumbers {
  const Wide* data;
  int64_t sample_stride, channel_stride;
  M2O_INLINE Wide at(int64_t sample, int64_t channel) const {
    return data[sample * sample_stride + channel * channel_stride];
  }
};

// A number of lanes that is known when compiling: all of them.
template <typename T>
using AllLanes = std::integral_constant<int64_t, kLanes<T>>;

template <typename T>
M2O_INLINE typename Simd<T>::Vector load_lanes(const T* from, AllLanes<T>) {
  return load(from);
}
template <typename T>
M2O_INLINE typename Simd<T>::Vector load_lanes(const T* from, int64_t count) {
  return load_first(from, count);
}
template <typename T>
M2O_INLINE void store_lanes(T* to, typename Simd<T>::Vector value, AllLanes<T>) {
  store(to, value);
}
template <typename T>
M2O_INLINE void store_lanes(T* to, typename Simd<T>::Vector value, int64_t count) {
  store_first(to, value, count);
}

template <typename Vector, typename Wide>
M2O_INLINE Vector activate(Vector value, Wide slope) {
  return where_positive(value, value, value * slope);
}

// The gradient behind the activation, from the gradient in front of it.
template <typename Vector, typename Wide>
M2O_INLINE Vector activate_gradient(Vector grad, Vector value, Wide slope) {
  return where_positive(value, grad, grad * slope);
}

// Calls body with std::true_type or std::false_type.
template <typename Body>
M2O_INLINE void with_constant(bool flag, const Body& body) {
  if (flag) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

// Numbers of a gradient from memory: as they are, or already in the type of the sums.
template <typename T, typename From, typename Count>
M2O_INLINE typename Simd<T>::Vector load_gradient(const From* from, Count count) {
  if constexpr (std::is_same_v<From, T>) {
    return load_lanes<T>(from, count);
  } else if constexpr (std::is_same_v<Count, AllLanes<T>>) {
    return Simd<T>::load_wide(from);
  } else {
    From present[kLanes<T>] = {};
    std::memcpy(present, from, count * sizeof(From));
    return Simd<T>::load_wide(present);
  }
}

// `streamed` demands an aligned `to`.
template <typename T, typename Count, typename Streamed>
M2O_INLINE void put(T* to, typename Simd<T>::Vector value, Count count, Streamed) {
  if constexpr (Streamed::value && std::is_same_v<Count, AllLanes<T>>) {
    stream(to, value);
  } else {
    store_lanes<T>(to, value, count);
  }
}

// The same for `count` numbers, which lie ready; streamed, they have to be a multiple of 16 bytes.
template <typename T, typename Streamed>
M2O_INLINE void put_row(T* to, const T* from, int64_t count, Streamed) {
  if constexpr (Streamed::value) {
    stream_bytes(to, from, count * sizeof(T));
  } else {
    std::memcpy(to, from, count * sizeof(T));
  }
}

// --- contiguous images: a plane is a run of numbers
// -------------------------------------------------------------------

// Independent sums, which hide the latency of an addition.
template <typename T>
inline constexpr int kSlots = 4 / kRegisters<T>;

// body(offset, count, slot) for every vector of `size` numbers.
template <typename T, typename Body>
M2O_INLINE void for_vectors(int64_t size, const Body& body) {
  int64_t offset = 0;
  for (; offset + kSlots<T> * kLanes<T> <= size; offset += kSlots<T> * kLanes<T>) {
    M2O_UNROLLED for (int slot = 0; slot < kSlots<T>; ++slot) { body(offset + slot * kLanes<T>, AllLanes<T>{}, slot); }
  }
  for (; offset + kLanes<T> <= size; offset += kLanes<T>) {
    body(offset, AllLanes<T>{}, 0);
  }
  if (offset < size) {
    body(offset, size - offset, 0);
  }
}

inline constexpr int64_t kPlaneBlock = 4096;  // numbers: 16 KiB of float stay in the first-level cache
inline constexpr int64_t kSumPiece = 512;     // numbers

// Sums in all slots.
template <typename T>
struct SlotSum {
  typename Simd<T>::Vector slot[kSlots<T>] = {};

  M2O_INLINE typename Simd<T>::Vector over_slots() const {
    if constexpr (kSlots<T> == 4) {
      return (slot[0] + slot[1]) + (slot[2] + slot[3]);
    } else {
      return slot[0] + slot[1];
    }
  }
  M2O_INLINE typename Simd<T>::Wide total() const { return sum_of(over_slots()); }
};

// --- channels_last images: a row of channels per pixel
// ----------------------------------------------------------------

// Rows that are summed in the type of the sums before they go into double, where sums are far smaller than what they
// are sums of: rounding errors grow with the length of a sum.
inline constexpr int64_t kBackwardRowBlock = 16;
inline constexpr int64_t kTiledChannels = 32;  // a whole number of tiles for every storage type

// Channels [begin, end) of one image.
struct ChannelRange {
  int64_t sample, begin, end;
};

}  // namespace m2o_fast
