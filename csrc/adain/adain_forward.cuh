// adain_act on the GPU: statistics of each plane, then the affine map, the LeakyReLU and the change of size.
#pragma once

#include "adain_launch.cuh"

namespace m2o_fast {
namespace {

// Count, mean and sum of squared deviations of a set of elements, per plane. Never the difference of two large sums: a
// flat plane has a variance near 0 and is amplified by up to 1/sqrt(eps).
template <typename L>
struct Moments {
  using Real = typename L::Real;
  // A mean rounded to the precision of x can be off by as much as x; 16-bit x is coarser than that.
  static constexpr bool kWithRest = std::is_same_v<typename L::Element, Real>;
  Real count = 0, mean[L::kPlanes] = {}, squares[L::kPlanes] = {};
  Real rest[L::kPlanes] = {};  // what the mean lacks

  __device__ __forceinline__ void move_mean(int p, Real change) {
    const Real moved = mean[p] + change;
    if constexpr (kWithRest) {
      rest[p] = change - (moved - mean[p]);
    }
    mean[p] = moved;
  }

  __device__ __forceinline__ void merge(const Moments& other) {
    if (count == 0) {
      *this = other;
    } else if (other.count > 0) {
      const Real share = other.count / (count + other.count), weight = count * share;
      count += other.count;
#pragma unroll
      for (int p = 0; p < L::kPlanes; ++p) {
        const Real difference = (other.mean[p] - mean[p]) + (other.rest[p] - rest[p]);
        squares[p] += fma(difference * difference, weight, other.squares[p]);
        move_mean(p, fma(difference, share, rest[p]));
      }
    }
  }

  // Takes out the rounding error of the mean. `sum` is what the deviations from it add up to; `inverse` is 1 / count.
  __device__ __forceinline__ void correct(int p, Real sum, Real inverse) {
    const Real error = sum * inverse;
    squares[p] -= sum * error;
    squares[p] = squares[p] < 0 ? Real(0) : squares[p];
    move_mean(p, error);
  }
};

// The moments of the first `left` vectors of a chunk.
template <typename L, int kCount>
__device__ __forceinline__ Moments<L> chunk_moments(typename L::Vector (&held)[kCount][1], int left) {
  using Real = typename L::Real;
  Moments<L> moments;
  if (left <= 0) {
    return moments;
  }
  Real sums[L::kPlanes] = {};
  moments.count = Real(min(left, kCount) * (L::kVector / L::kPlanes));
  const Real inverse = 1 / moments.count;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < left) {
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        sums[e % L::kPlanes] += held[k][0].get(e);
      }
    }
    held[k][0].forget_widened();
  }
#pragma unroll
  for (int p = 0; p < L::kPlanes; ++p) {
    moments.mean[p] = sums[p] * inverse;
    sums[p] = 0;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < left) {
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        const int p = e % L::kPlanes;
        const Real deviation = held[k][0].get(e) - moments.mean[p];
        sums[p] += deviation;
        moments.squares[p] = fma(deviation, deviation, moments.squares[p]);
      }
    }
    held[k][0].forget_widened();
  }
#pragma unroll
  for (int p = 0; p < L::kPlanes; ++p) {
    moments.correct(p, sums[p], inverse);
  }
  return moments;
}

// Merges the moments of all threads that work on the tile: `count` elements per plane.
template <Route kRoute, typename L>
__device__ __forceinline__ void merge_over_tile(Moments<L>& moments, typename L::Real count, const Plan& plan) {
  using Real = typename L::Real;
  constexpr int kPlanes = L::kPlanes;
  const Real inverse = 1 / count;
  Real* scratch = scratch_memory<Real>();
  Real sums[kPlanes], rest[2 * kPlanes];
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    sums[p] = moments.count * moments.mean[p];
  }
  sum_over_tile<kRoute>(sums, plan, scratch);
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const Real mean = sums[p] * inverse, difference = (moments.mean[p] - mean) + moments.rest[p];
    rest[p] = moments.count * difference;
    rest[kPlanes + p] = fma(rest[p], difference, moments.squares[p]);
    moments.mean[p] = mean;
  }
  sum_over_tile<kRoute>(rest, plan, scratch + block_sum_scratch(blockDim.x, plan.columns, kPlanes));
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    moments.squares[p] = rest[kPlanes + p];
    moments.correct(p, rest[p], inverse);
  }
}

template <typename L, Route kRoute>
__global__ void __launch_bounds__((kMaxThreads<L, kRoute>), (kMinBlocks<kRoute>))
    forward_kernel(const AdainArguments a, const Plan plan) {
  using Real = typename L::Real;
  constexpr int kCount = kHeld<kRoute, 1>, kPlanes = L::kPlanes;
  const auto span = thread_span<L, kRoute>(a, plan);
  const int64_t plane = span.image * a.channels + span.channel;
  const auto* x = static_cast<const typename L::Element*>(a.x);
  const typename L::Element* const tensors[1] = {x};
  typename L::Vector held[kCount][1];
  typename L::Vector* slots = slot_memory<L>(plan);
  if constexpr (kRoute != Route::kFinish) {
    load_chunk<L>(held, tensors, a, plan, span, 0);
  }
  Affine<L> affine(a, span);
  Real count = Real(a.plane);
  Moments<L> moments;
  if constexpr (kRoute == Route::kFinish) {
    for (int part = span.rank; span.live && part < plan.parts; part += span.ranks) {
      Moments<L> of_part;
      of_part.count = part_count<L>(plan, part);
      load_run<kPlanes>(of_part.mean, partial<Real>(a, part, 0) + plane);
      load_run<kPlanes>(of_part.squares, partial<Real>(a, part, 1) + plane);
      if constexpr (Moments<L>::kWithRest) {
        load_run<kPlanes>(of_part.rest, partial<Real>(a, part, 2) + plane);
      }
      moments.merge(of_part);
    }
  } else {
    for (int chunk = 0;; ++chunk) {
      moments.merge(chunk_moments<L>(held, span.vectors - chunk * kCount));
      if (chunk + 1 == plan.chunks) {
        break;
      }
      if constexpr (kRoute == Route::kOnChip) {
        keep_chunk(held, slots, chunk);
      }
      load_chunk<L>(held, tensors, a, plan, span, chunk + 1);
    }
    if constexpr (kRoute == Route::kPartial) {
      count = part_count<L>(plan, span.part);
    }
  }
  merge_over_tile<kRoute>(moments, count, plan);
  if constexpr (kRoute == Route::kPartial) {
    if (span.writes) {
      store_run<kPlanes>(partial<Real>(a, span.part, 0) + plane, moments.mean);
      store_run<kPlanes>(partial<Real>(a, span.part, 1) + plane, moments.squares);
      if constexpr (Moments<L>::kWithRest) {
        store_run<kPlanes>(partial<Real>(a, span.part, 2) + plane, moments.rest);
      }
    }
  } else if (span.live) {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Real rstd = 1 / sqrt(moments.squares[p] / count + Real(a.eps));
      affine.normalise(p, moments.mean[p], moments.rest[p], rstd);
      if (span.writes) {  // one at a time: registers are scarce
        static_cast<Real*>(a.mean)[plane + p] = moments.mean[p];
        rest_of_mean<Real>(a)[plane + p] = moments.rest[p];
        static_cast<Real*>(a.rstd)[plane + p] = rstd;
      }
    }
    auto* y = static_cast<typename L::Element*>(a.y);
    const Real slope = Real(a.slope);
    for_each_unit<L, kRoute>(held, tensors, slots, a, span, plan,
                             [&](const typename L::Vector(*now)[1], int64_t offset, int number) {
                               store_output<L>(y, a, plan, span, offset, number, [&](int v, int e) {
                                 const int p = e % kPlanes;
                                 const Real before = affine.preactivation(now[v][0].get(e) - affine.mean[p], p);
                                 return before > 0 ? before : before * slope;
                               });
                             });
  }
  if (kRoute == Route::kOnChip && plan.parts > 1) {
    leave_cluster();
  }
}

struct Forward {
  static constexpr int kTensors = 1;
  template <typename L, Route kRoute>
  static constexpr Kernel kernel = &forward_kernel<L, kRoute>;
};

}  // namespace
}  // namespace m2o_fast
