// What a translated .cu file (translate.py) sees of CUDA: its words, said in plain C++. Included before all else.
#pragma once

// NVIDIA's own host versions of the conversions, so before __CUDA_ARCH__ is defined.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulation.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __grid_constant__
#undef __launch_bounds__
#undef __forceinline__
#define __global__ [[maybe_unused]] static
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __CUDA_ARCH__ 900

namespace emulation {

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// The first line of a kernel. What a library holds is known as soon as it is loaded: the name of every instantiation is
// put on the list before main.
template <typename Here>
struct Kernel {
  static const bool known;
};
template <typename Here>
const bool Kernel<Here>::known = add_kernel(Here::name());

template <typename Here>
void enter_kernel(unsigned most_threads) {
  static_cast<void>(&Kernel<Here>::known);
  enter_kernel(Here::name(), most_threads);
}

constexpr unsigned most_threads(unsigned threads = 1024, unsigned = 0) { return threads; }

// Notes by which route of its plan a kernel goes: several kernels decide that at run time.
template <typename Argument>
void note_route([[maybe_unused]] const Argument& argument) {
  if constexpr (requires { argument.chunks; }) {
    note_route(argument.chunks > 1 ? "chunks" : "one chunk");
  }
  if constexpr (requires { argument.parts; }) {
    note_route(argument.parts > 1 ? "parts" : "one part");
  }
  if constexpr (requires { argument.kind; }) {
    note_route(("kind " + std::to_string(static_cast<int>(argument.kind))).c_str());
  }
}

// kernel<<<configuration>>>(arguments), where run() is the call.
template <typename Run, typename... Arguments>
void launch(const Configuration& configuration, const Run& run, const Arguments&... arguments) {
  (note_route(arguments), ...);
  run_grid({nullptr, configuration.grid, configuration.block, 1, configuration.shared_bytes}, run);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* configuration, void (*kernel)(Parameters...),
                   const Arguments&... arguments) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < configuration->numAttrs; ++i) {
    if (configuration->attrs[i].id == cudaLaunchAttributeClusterDimension) {
      cluster = configuration->attrs[i].val.clusterDim.x;
    }
  }
  (note_route(arguments), ...);
  return run_grid({reinterpret_cast<const void*>(kernel), configuration->gridDim, configuration->blockDim, cluster,
                   configuration->dynamicSmemBytes},
                  [&] { kernel(arguments...); });
}

template <typename T>
T shuffle_xor(unsigned mask, T value, int lanes, const Place& place) {
  T theirs;
  exchange(mask, &value, &theirs, sizeof(T), lane_number() ^ lanes, place);
  return theirs;
}

template <typename T, typename V>
T atomic_add(T* to, V value) {
  static_assert(std::is_integral_v<T>, "an atomic addition of floating-point numbers: its order would show");
  return __atomic_fetch_add(to, static_cast<T>(value), __ATOMIC_RELAXED);
}
template <typename T, typename V>
T atomic_or(T* to, V value) {
  return __atomic_fetch_or(to, static_cast<T>(value), __ATOMIC_RELAXED);
}
template <typename T, typename V>
T atomic_compare_and_swap(T* to, V expected, V value) {
  T found = expected;
  __atomic_compare_exchange_n(to, &found, static_cast<T>(value), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return found;
}
inline void store_16_bytes(void* to, uint4 bits) { *static_cast<uint4*>(to) = bits; }

}  // namespace emulation

inline float __uint_as_float(unsigned bits) {
  float number;
  memcpy(&number, &bits, sizeof(number));
  return number;
}
using std::max;
using std::min;

inline emulation::Index &threadIdx = emulation::thread_index, &blockIdx = emulation::block_index;
inline dim3 &blockDim = emulation::block_size, &gridDim = emulation::grid_size;
#define EMULATION_HERE (emulation::Place{__FILE__, __LINE__})
#define __syncthreads() emulation::wait_for_block(EMULATION_HERE)
#define __cluster_barrier_arrive() emulation::arrive_at_cluster(EMULATION_HERE)
#define __cluster_barrier_arrive_relaxed() emulation::arrive_at_cluster(EMULATION_HERE)
#define __cluster_barrier_wait() emulation::wait_for_cluster(EMULATION_HERE)
#define __cluster_map_shared_rank(pointer, rank) emulation::in_peer(pointer, rank, EMULATION_HERE)
#define __shfl_xor_sync(mask, value, lanes) emulation::shuffle_xor(mask, value, lanes, EMULATION_HERE)
#define atomicAdd emulation::atomic_add
#define atomicOr emulation::atomic_or
#define atomicCAS emulation::atomic_compare_and_swap
#define cudaLaunchKernelEx emulation::launch
