// Soft colour histograms on the GPU. Weights are added up as integers, so the order of the atomics does not show. The
// definition is soft_color_histogram_reference in m2o_fast/ops/soft_histogram.py.
#include <limits>

#include "histogram_cuda.cuh"
#include "soft_histogram.h"

namespace m2o_fast {
namespace {

constexpr int kSoftThreads = 256;
constexpr int64_t kSharedCells = 6144;  // 48 KB of int64

using Units = unsigned long long;

// -1 for a number out of range.
__device__ __forceinline__ int64_t group_of(const GroupedColors& a, int64_t i) {
  const int64_t group = a.group ? a.group[i * a.group_stride] : 0;
  return group >= 0 && group < a.groups ? group : -1;
}

template <typename Stored>
__device__ __forceinline__ Corners corners_of(const GroupedColors& a, int64_t i) {
  const Stored* color = static_cast<const Stored*>(a.colors.data) + i * a.colors.column_stride;
  const auto place = [&](int k) { return place_of(widen(color[k * a.colors.channel_stride]), a.bins); };
  return {{place(0), place(1), place(2)}};
}

// `sums`: the units of every cell, then for every group whether it has met a NaN.
template <typename Stored, bool kShared>
__global__ void __launch_bounds__(kSoftThreads)
    share_kernel(GroupedColors a, double units, Units* sums, int32_t* status) {
  extern __shared__ Units shared[];
  const int64_t all_cells = a.groups * a.cells();
  Units* cells = kShared ? shared : sums;
  if constexpr (kShared) {
    for (int64_t i = threadIdx.x; i < all_cells; i += kSoftThreads) {
      shared[i] = 0;
    }
    __syncthreads();
  }
  const int64_t first = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
  for (int64_t i = first; i < a.colors.width; i += int64_t{gridDim.x} * kSoftThreads) {
    const int64_t group = group_of(a, i);
    if (group < 0) {
      atomicOr(status, kWrongGroup);
      continue;
    }
    const Corners corners = corners_of<Stored>(a, i);
    if (corners.is_nan()) {
      atomicOr(sums + all_cells + group, Units{1});
      continue;
    }
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
      const Units part = in_units(corners.weight(corner), units);
      if (part != 0) {
        atomicAdd(cells + group * a.cells() + corners.cell(corner, a.bins), part);
      }
    }
  }
  if constexpr (kShared) {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < all_cells; i += kSoftThreads) {
      if (shared[i] != 0) {
        atomicAdd(sums + i, shared[i]);
      }
    }
  }
}

template <typename Real>
__global__ void __launch_bounds__(kSoftThreads)
    convert_kernel(GroupedColors a, Divisor by_cells, double units, const Units* sums, Real* counts) {
  const int64_t all_cells = a.groups * a.cells();
  const int64_t first = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
#pragma unroll 1
  for (int64_t i = first; i < all_cells; i += int64_t{gridDim.x} * kSoftThreads) {
    const bool spoilt = sums[all_cells + by_cells.quotient(i)] != 0;
    counts[i] =
        spoilt ? std::numeric_limits<Real>::quiet_NaN() : static_cast<Real>(static_cast<double>(sums[i]) / units);
  }
}

template <typename Stored>
__global__ void __launch_bounds__(kSoftThreads)
    gradient_kernel(GroupedColors a, const Arithmetic<Stored>* grad, Stored* grad_colors) {
  const int64_t first = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
  for (int64_t i = first; i < a.colors.width; i += int64_t{gridDim.x} * kSoftThreads) {
    const int64_t group = group_of(a, i);
    const Corners corners = corners_of<Stored>(a, i);
    Arithmetic<Stored> around[8];
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
      around[corner] = group < 0 ? std::numeric_limits<Arithmetic<Stored>>::quiet_NaN()
                                 : grad[group * a.cells() + corners.cell(corner, a.bins)];
    }
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
      const double slope = corners.slope(around, channel, a.bins);
      grad_colors[3 * i + channel] = narrow<Stored>(static_cast<Arithmetic<Stored>>(slope));
    }
  }
}

template <typename Stored>
void launch_forward(const GroupedColors& a, void* counts, int64_t* units, int32_t* status, cudaStream_t stream) {
  const double in_one = units_in_one(a.colors.width);
  auto* sums = reinterpret_cast<Units*>(units);
  const unsigned blocks = grid_for(ceil_div(a.colors.width, kSoftThreads), 1024);
  const int64_t cells = a.groups * a.cells();
  if (a.colors.width > 0 && cells <= kSharedCells) {
    share_kernel<Stored, true><<<blocks, kSoftThreads, cells * sizeof(Units), stream>>>(a, in_one, sums, status);
  } else if (a.colors.width > 0) {
    share_kernel<Stored, false><<<blocks, kSoftThreads, 0, stream>>>(a, in_one, sums, status);
  }
  convert_kernel<<<grid_for(ceil_div(cells, kSoftThreads)), kSoftThreads, 0, stream>>>(
      a, Divisor(a.cells()), in_one, sums, static_cast<Arithmetic<Stored>*>(counts));
}

template <typename Stored>
void launch_backward(const GroupedColors& a, const void* grad, void* grad_colors, cudaStream_t stream) {
  if (a.colors.width > 0) {
    gradient_kernel<Stored><<<grid_for(ceil_div(a.colors.width, kSoftThreads)), kSoftThreads, 0, stream>>>(
        a, static_cast<const Arithmetic<Stored>*>(grad), static_cast<Stored*>(grad_colors));
  }
}

}  // namespace

const char* soft_color_histogram_cuda(const GroupedColors& a, void* counts, int64_t* units, int32_t* status,
                                      void* stream) {
  with_stored(a.colors.pixel, [&](auto stored) {
    if constexpr (!std::is_same_v<decltype(stored), uint8_t>) {
      launch_forward<decltype(stored)>(a, counts, units, status, static_cast<cudaStream_t>(stream));
    }
  });
  return words_of(cudaGetLastError());
}

const char* soft_color_histogram_backward_cuda(const GroupedColors& a, const void* grad, void* grad_colors,
                                               void* stream) {
  with_stored(a.colors.pixel, [&](auto stored) {
    if constexpr (!std::is_same_v<decltype(stored), uint8_t>) {
      launch_backward<decltype(stored)>(a, grad, grad_colors, static_cast<cudaStream_t>(stream));
    }
  });
  return words_of(cudaGetLastError());
}

}  // namespace m2o_fast
