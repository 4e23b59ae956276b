// Colour histograms and counts of distinct colours on the GPU. All atomics are on integers, so their order does not
// show. The definitions are the references in m2o_fast/ops/histogram.py.
#include "histogram_cuda.cuh"

namespace m2o_fast {
namespace {

constexpr int kCountThreads = 256;
constexpr int64_t kSharedCells = 12288;  // 48 KB of int32

using Counter = unsigned long long;

// -------------------------------------------------------------------------------------------------------- histogram

// Adds a colour to `counts`, shared by the block or global.
template <typename Stored, typename Number>
__device__ __forceinline__ void count_color(const GroupedColors& a, int64_t i, Number* counts, int32_t& trouble) {
  const Images& colors = a.colors;
  const int64_t group = a.group ? a.group[i * a.group_stride] : 0;
  if (group < 0 || group >= a.groups) {
    trouble |= kWrongGroup;
    return;
  }
  const Stored* color = static_cast<const Stored*>(colors.data) + i * colors.column_stride;
  int32_t cell = 0;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const double value = widen(color[k * colors.channel_stride]);
    trouble |= is_finite(value) ? 0 : kNotFinite;
    cell = cell * a.bins + static_cast<int32_t>(fmin(fmax(value * a.bins, 0.0), a.bins - 1.0));
  }
  atomicAdd(counts + group * a.cells() + cell, Number{1});
}

template <typename Stored, bool kShared>
__global__ void __launch_bounds__(kCountThreads) count_kernel(GroupedColors a, Counter* counts, int32_t* status) {
  extern __shared__ uint32_t shared[];
  const int64_t cells = a.groups * a.cells();
  int32_t trouble = 0;
  if constexpr (kShared) {
    for (int64_t i = threadIdx.x; i < cells; i += kCountThreads) {
      shared[i] = 0;
    }
    __syncthreads();
  }
  const int64_t first = int64_t{blockIdx.x} * kCountThreads + threadIdx.x;
  for (int64_t i = first; i < a.colors.width; i += int64_t{gridDim.x} * kCountThreads) {
    if constexpr (kShared) {
      count_color<Stored>(a, i, shared, trouble);
    } else {
      count_color<Stored>(a, i, counts, trouble);
    }
  }
  if constexpr (kShared) {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < cells; i += kCountThreads) {
      if (shared[i] != 0) {
        atomicAdd(counts + i, Counter{shared[i]});
      }
    }
  }
  if (trouble != 0) {
    atomicOr(status, trouble);
  }
}

// -------------------------------------------------------------------------------------------------- distinct colours

// One channel's level: the nearest integer to value * top, ties to even, in 0..top. No uint8 value is next to a tie.
template <typename Stored>
__device__ __forceinline__ uint32_t level_of(Value<Stored> value, uint32_t top, int32_t& trouble) {
  if constexpr (std::is_same_v<Stored, uint8_t>) {
    return (2 * value * top + 255) / 510;
  } else {
    const double wide = value;
    trouble |= is_finite(wide) ? 0 : kNotFinite;
    return static_cast<uint32_t>(rint(fmin(fmax(wide * top, 0.0), double(top))));
  }
}

// A word that other threads may be setting by atomics. Volatile reads are relaxed atomic ones on a GPU, so this is no
// race; it may miss what is being written.
__device__ __forceinline__ uint32_t word_now(const uint32_t* word) {
  return *static_cast<const volatile uint32_t*>(word);
}

// Whether the code was not in the set yet: exactly one of all threads that insert it is told so.
__device__ __forceinline__ bool insert_bit(uint32_t* set, uint32_t code) {
  uint32_t* word = set + code / 32;
  const uint32_t bit = 1u << code % 32;
  if (word_now(word) & bit) {
    return false;  // spares most of the atomics
  }
  return (atomicOr(word, bit) & bit) == 0;
}

constexpr uint32_t kEmpty = 0xffffffffu;

// The table has more slots than there are pixels, so there is always an empty one.
__device__ __forceinline__ bool insert_hash(uint32_t* table, uint32_t slots, uint32_t code) {
  const uint32_t mask = slots - 1;  // a power of two up to 2^13
  for (uint32_t at = code * 2654435761u >> 16 & mask;; at = (at + 1) & mask) {
    uint32_t found = word_now(table + at);  // spares most of the atomics
    if (found == kEmpty) {
      found = atomicCAS(table + at, kEmpty, code);
    }
    if (found == kEmpty || found == code) {
      return found == kEmpty;
    }
  }
}

// A block takes parts of the images first..first + images_at_once. A set in shared memory is the block's own, and then
// a part is a whole image.
template <typename Stored, PixelLayout kLayout>
__global__ void __launch_bounds__(kCountThreads)
    unique_kernel(Images images, int64_t first, int64_t last, SetPlan plan, Divisor by_width, uint32_t top,
                  Counter* counts, uint32_t* workspace, int32_t* status) {
  extern __shared__ uint32_t shared[];
  __shared__ uint32_t total;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t pixels = images.height * images.width;
  const bool hash = plan.kind == SetKind::kSharedHash;
  int32_t trouble = 0;
  for (int64_t item = blockIdx.x; item < (last - first) * plan.parts; item += gridDim.x) {
    const auto share = plan.by_parts.divide(item);
    const int64_t image = first + share.quotient, begin = share.remainder * plan.part_pixels;
    const int64_t end = begin + plan.part_pixels < pixels ? begin + plan.part_pixels : pixels;
    uint32_t* set = plan.kind == SetKind::kGlobalBits ? workspace + (image - first) * plan.words : shared;
    if (plan.kind != SetKind::kGlobalBits) {
      for (int64_t i = thread; i < plan.words; i += kCountThreads) {
        set[i] = hash ? kEmpty : 0;
      }
    }
    if (thread == 0) {
      total = 0;
    }
    __syncthreads();
    uint32_t met = 0;
    for_pixels<Stored, kLayout>(images, nullptr, by_width, image, begin, end, thread, kCountThreads,
                                [&](auto red, auto green, auto blue, auto) {
                                  uint32_t code = level_of<Stored>(red, top, trouble);
                                  code = code * (top + 1) + level_of<Stored>(green, top, trouble);
                                  code = code * (top + 1) + level_of<Stored>(blue, top, trouble);
                                  met += hash ? insert_hash(set, uint32_t(plan.words), code) : insert_bit(set, code);
                                });
    if (met != 0) {
      atomicAdd(&total, met);
    }
    __syncthreads();
    if (thread == 0 && total != 0) {
      atomicAdd(counts + image, Counter{total});
    }
  }
  if (trouble != 0) {
    atomicOr(status, trouble);
  }
}

}  // namespace

const char* color_histogram_cuda(const GroupedColors& a, int64_t* counts, int32_t* status, void* stream_pointer) {
  if (a.colors.width == 0) {
    return nullptr;
  }
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const unsigned blocks = grid_for(ceil_div(a.colors.width, kCountThreads), 1024);
  auto* counters = reinterpret_cast<Counter*>(counts);
  with_stored(a.colors.pixel, [&](auto stored) {
    using Stored = decltype(stored);
    if constexpr (!std::is_same_v<Stored, uint8_t>) {
      if (const int64_t cells = a.groups * a.cells(); cells <= kSharedCells) {
        count_kernel<Stored, true><<<blocks, kCountThreads, cells * sizeof(uint32_t), stream>>>(a, counters, status);
      } else {
        count_kernel<Stored, false><<<blocks, kCountThreads, 0, stream>>>(a, counters, status);
      }
    }
  });
  return words_of(cudaGetLastError());
}

int64_t unique_color_workspace(const Images& images, int32_t bits) {
  const SetPlan plan = plan_sets(images, bits);
  return plan.kind == SetKind::kGlobalBits ? plan.words * plan.images_at_once : 0;
}

const char* unique_color_count_cuda(const Images& images, int32_t bits, int64_t* counts, uint32_t* workspace,
                                    int32_t* status, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const SetPlan plan = plan_sets(images, bits);
  const bool global = plan.kind == SetKind::kGlobalBits;
  const size_t shared_bytes = global ? 0 : plan.words * sizeof(uint32_t);
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < images.count && error == cudaSuccess; first += plan.images_at_once) {
    const int64_t last = std::min(images.count, first + plan.images_at_once);
    if (global) {
      error = cudaMemsetAsync(workspace, 0, plan.words * (last - first) * sizeof(uint32_t), stream);
    }
    with_stored_and_layout(images, nullptr, [&](auto stored, auto layout) {
      const unsigned blocks = grid_for((last - first) * plan.parts);
      unique_kernel<decltype(stored), decltype(layout)::value><<<blocks, kCountThreads, shared_bytes, stream>>>(
          images, first, last, plan, Divisor(images.width), (1u << bits) - 1, reinterpret_cast<Counter*>(counts),
          workspace, status);
    });
    error = error == cudaSuccess ? cudaGetLastError() : error;
  }
  return words_of(error);
}

const char* read_status(const int32_t* status, void* stream_pointer, int32_t& value) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const cudaError_t error = cudaMemcpyAsync(&value, status, sizeof(value), cudaMemcpyDeviceToHost, stream);
  return words_of(error == cudaSuccess ? cudaStreamSynchronize(stream) : error);
}

}  // namespace m2o_fast
