// What the CUDA kernels of the operator families share: vector accesses, conversions, sums over a block or a cluster.
// Free of torch: kernels see raw pointers, sizes and a stream.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "plane_numbers.h"

namespace m2o_fast {

// The words for an error, or nullptr. The runtime also remembers an error until it is asked for, and hands it to
// whoever asks next: that would be torch, after some kernel of its own. So it is made to forget it.
inline const char* words_of(cudaError_t error) {
  if (error == cudaSuccess) {
    return nullptr;
  }
  cudaGetLastError();
  return cudaGetErrorString(error);
}

// Arithmetic is done in float32, for float64 elements in float64.
template <typename Element>
using Arithmetic = std::conditional_t<std::is_same_v<Element, double>, double, float>;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Element>
__device__ __forceinline__ Element narrow(Arithmetic<Element> value) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Neighbouring elements that one instruction reads or writes, at best 16 bytes of them. Two 16-bit elements share a
// register.
template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount) Pack {
  static constexpr bool kPairs = sizeof(Element) == 2 && kCount % 2 == 0;
  using Word = std::conditional_t<kPairs, uint32_t, Element>;
  Word words[kCount * sizeof(Element) / sizeof(Word)];

  __device__ __forceinline__ Arithmetic<Element> get(int e) const {
    if constexpr (!kPairs) {
      return widen(words[e]);
    } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
      return __uint_as_float(e % 2 == 0 ? words[e / 2] << 16 : words[e / 2] & 0xffff0000u);
    } else {
      return widen(__ushort_as_half(static_cast<unsigned short>(e % 2 == 0 ? words[e / 2] : words[e / 2] >> 16)));
    }
  }

  // Elements 0, 1, 2, ... in this order.
  __device__ __forceinline__ void set(int e, Arithmetic<Element> value) {
    if constexpr (!kPairs) {
      words[e] = narrow<Element>(value);
    } else {
      const Element element = narrow<Element>(value);
      unsigned short bits;
      if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
        bits = __bfloat16_as_ushort(element);
      } else {
        bits = __half_as_ushort(element);
      }
      words[e / 2] = e % 2 == 0 ? bits : words[e / 2] | uint32_t(bits) << 16;
    }
  }

  // Keeps the compiler from holding on to the widened elements, which takes twice the registers: they are widened
  // again.
  __device__ __forceinline__ void forget_widened() {
    if constexpr (kPairs) {
#pragma unroll
      for (uint32_t& word : words) {
        asm volatile("" : "+r"(word));
      }
    }
  }
};

template <typename Element, int kCount>
__device__ __forceinline__ Pack<Element, kCount> load_pack(const Element* source) {
  return *reinterpret_cast<const Pack<Element, kCount>*>(source);
}

template <typename Element, int kCount>
__device__ __forceinline__ void store_pack(Element* target, const Pack<Element, kCount>& pack) {
  if constexpr (sizeof(pack) == sizeof(uint4)) {
    // One instruction: the compiler would split a plain assignment into four.
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(bits.x), "r"(bits.y), "r"(bits.z),
                 "r"(bits.w));
  } else {
    *reinterpret_cast<Pack<Element, kCount>*>(target) = pack;
  }
}

constexpr int kAccessBytes = 16;  // the most that one instruction reads or writes

// Whether they can be read or written by 16 bytes from here on.
__host__ __device__ __forceinline__ bool starts_on_16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0;
}

// The most neighbours among `count` that one access takes.
template <typename Element>
constexpr int pack_size(int count) {
  constexpr int kMost = kAccessBytes / sizeof(Element);
  return count < kMost ? count : kMost;
}

// Neighbours as the numbers they are calculated with.
template <int kCount, typename Element>
__device__ __forceinline__ void load_numbers(Arithmetic<Element>* numbers, const Element* from) {
  const auto pack = load_pack<Element, kCount>(from);
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    numbers[e] = pack.get(e);
  }
}

template <int kCount, typename Element>
__device__ __forceinline__ void store_numbers(Element* to, const Arithmetic<Element>* numbers) {
  Pack<Element, kCount> pack;
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    pack.set(e, numbers[e]);
  }
  store_pack(to, pack);
}

// Reads numbers that are `step` elements apart, by 16 bytes where they are neighbours that start there.
template <int kCount, typename Element>
__device__ __forceinline__ void load_run(Arithmetic<Element>* numbers, const Element* from, int64_t step = 1) {
  constexpr int kPack = pack_size<Element>(kCount);
  if (kCount > 1 && step == 1 && starts_on_16(from)) {
#pragma unroll
    for (int first = 0; first < kCount; first += kPack) {
      load_numbers<kPack>(numbers + first, from + first);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      numbers[e] = widen(from[e * step]);
    }
  }
}

// Writes neighbours, likewise.
template <int kCount, typename Real>
__device__ __forceinline__ void store_run(Real* to, const Real* numbers) {
  constexpr int kPack = pack_size<Real>(kCount);
  if (kCount > 1 && starts_on_16(to)) {
#pragma unroll
    for (int first = 0; first < kCount; first += kPack) {
      store_numbers<kPack>(to + first, numbers + first);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      to[e] = numbers[e];
    }
  }
}

// A parameter's numbers for kCount planes from one on.
template <typename Element, int kCount>
__device__ __forceinline__ void load_plane_numbers(Arithmetic<Element> (&numbers)[kCount], const PlaneNumbers& from,
                                                   int64_t image, int64_t channel) {
  const int64_t offset = image * from.strides[0] + channel * from.strides[1];
  if (std::is_same_v<Element, Arithmetic<Element>> || from.wide) {
    load_run<kCount>(numbers, static_cast<const Arithmetic<Element>*>(from.data) + offset, from.strides[1]);
  } else {
    load_run<kCount>(numbers, static_cast<const Element*>(from.data) + offset, from.strides[1]);
  }
}

// Waits for every thread of the cluster and makes their writes to shared memory visible to each other.
__device__ __forceinline__ void cluster_barrier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#endif
}

// Waits for every thread of the cluster, to end a kernel: no block may leave while others read its shared memory. Does
// not wait for its threads' writes.
__device__ __forceinline__ void leave_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive_relaxed();
  __cluster_barrier_wait();
#endif
}

// The place of `shared` in the shared memory of block `rank` of this cluster.
template <typename T>
__device__ __forceinline__ const T* in_peer(const T* shared, unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<const T*>(__cluster_map_shared_rank(shared, rank));
#else
  return rank == 0 ? shared : nullptr;  // before sm_90 a block is its own cluster
#endif
}

constexpr int kWarpSize = 32;

// Sums over the `group` neighbouring lanes (a power of two) that work together; every lane gets the result.
template <typename Real, int kCount>
__device__ __forceinline__ void sum_over_lanes(Real (&values)[kCount], int group) {
  for (int offset = group / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      values[v] += __shfl_xor_sync(0xffffffffu, values[v], offset);
    }
  }
}

// The shared memory that sum_over_block needs, in numbers.
constexpr int block_sum_scratch(int threads, int columns, int count) {
  return (threads / kWarpSize + 2) * columns * count;
}

// Sums over the threads of a block, and of its cluster of `peers` blocks, whose index is the same modulo `columns` (a
// power of two up to 32); every thread gets the result of its column. The order of the additions is fixed, so equal
// inputs give equal bits. `scratch` must not be reused before the kernel's next block or cluster barrier.
template <typename Real, int kCount>
__device__ __forceinline__ void sum_over_block(Real (&values)[kCount], int columns, int peers, Real* scratch) {
#pragma unroll 1
  for (int offset = kWarpSize / 2; offset >= columns; offset /= 2) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      values[v] += __shfl_xor_sync(0xffffffffu, values[v], offset);
    }
  }
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int warps = threads / kWarpSize, lane = thread % kWarpSize, width = columns * kCount;
  if (lane < columns) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      scratch[(thread / kWarpSize) * width + lane * kCount + v] = values[v];
    }
  }
  Real* totals = scratch + warps * width;
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < width; i += threads) {
    Real total = 0;
#pragma unroll 4
    for (int warp = 0; warp < warps; ++warp) {
      total += scratch[warp * width + i];
    }
    totals[i] = total;
  }
  if (peers > 1) {
    cluster_barrier();
#pragma unroll 1
    for (int i = thread; i < width; i += threads) {
      Real total = 0;
#pragma unroll 1
      for (int rank = 0; rank < peers; ++rank) {
        total += in_peer(totals, rank)[i];
      }
      totals[width + i] = total;
    }
    totals += width;
  }
  __syncthreads();
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    values[v] = totals[(lane % columns) * kCount + v];
  }
}

}  // namespace m2o_fast
