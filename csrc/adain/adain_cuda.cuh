// What the kernels in adain_forward.cuh and adain_backward.cuh share: how a tile is kept on the chip, the affine map.
//
//   y = LeakyReLU(scale * (x - mean) + beta) with scale = ((1+)gamma) * rstd, mean and rstd per plane
//
// Both passes are bound by memory traffic, so they read x (and the gradient) once wherever a tile fits into the
// registers and the shared memory of a block or of a cluster of blocks; see adain_cuda_plan.h for the routes. Nothing
// is summed by atomics.
#pragma once

#include "adain_cuda_square.cuh"

namespace m2o_fast {
namespace {

// Tensor 0 is x, tensor 1 the gradient of y.
template <typename L, int kCount, int kTensors>
__device__ __forceinline__ void load_chunk(typename L::Vector (&held)[kCount][kTensors],
                                           const typename L::Element* const (&tensors)[kTensors],
                                           const AdainArguments& a, const Plan& plan,
                                           const Span<typename L::Jump>& span, int chunk) {
  constexpr int kUnits = kCount / L::kGroup;
  int64_t offset = span.offset + chunk * kUnits * span.jump;
#pragma unroll
  for (int k = 0; k < kUnits; ++k, offset += span.jump) {
    if (k * L::kGroup < span.vectors - chunk * kCount) {
      if constexpr (L::kUp || L::kDown) {
        load_unit<L>(&held[k * L::kGroup], tensors, Square<L>(a, plan, span, chunk * kUnits + k), offset);
      } else {
#pragma unroll
        for (int t = 0; t < kTensors; ++t) {
          held[k][t] = load_pack<typename L::Element, L::kVector>(tensors[t] + offset);
        }
      }
    }
  }
}

// Puts a chunk into shared memory, in turns with the other threads of the block. Only this thread reads it again, so no
// barrier is needed.
template <int kCount, int kTensors, typename Vector>
__device__ __forceinline__ void keep_chunk(const Vector (&held)[kCount][kTensors], Vector* slots, int chunk) {
  Vector* place = slots + chunk * kCount * kTensors * static_cast<int>(blockDim.x);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int t = 0; t < kTensors; ++t, place += blockDim.x) {
      *place = held[k][t];
    }
  }
}

// The map from x to y before the LeakyReLU. The backward pass takes its sign.
template <typename L>
struct Affine {
  using Real = typename L::Real;
  Real mean[L::kPlanes], scale[L::kPlanes], shift[L::kPlanes];

  __device__ __forceinline__ Affine(const AdainArguments& a, const Span<typename L::Jump>& span) {
    if (!span.live) {
      return;
    }
    load_plane_numbers<typename L::Element>(scale, a.gamma, span.image, span.channel);
    load_plane_numbers<typename L::Element>(shift, a.beta, span.image, span.channel);
#pragma unroll
    for (int p = 0; p < L::kPlanes; ++p) {
      scale[p] = a.one_plus ? 1 + scale[p] : scale[p];
    }
  }

  __device__ __forceinline__ void normalise(int p, Real plane_mean, Real rest, Real rstd) {
    mean[p] = plane_mean;
    scale[p] *= rstd;
    shift[p] = fma(-rest, scale[p], shift[p]);
  }

  __device__ __forceinline__ Real preactivation(Real deviation, int p) const {
    return fma(deviation, scale[p], shift[p]);
  }
};

// What rounding took from the mean of each plane.
template <typename Real>
__device__ __forceinline__ Real* rest_of_mean(const AdainArguments& a) {
  return static_cast<Real*>(a.mean) + a.batch * a.channels;
}

// Sums over all threads that work on the tile.
template <Route kRoute, typename Real, int kCount>
__device__ __forceinline__ void sum_over_tile(Real (&values)[kCount], const Plan& plan, Real* scratch) {
  if constexpr (kRoute == Route::kLanes) {
    sum_over_lanes(values, plan.columns);
  } else {
    sum_over_block(values, plan.columns, kRoute == Route::kOnChip ? plan.parts : 1, scratch);
  }
}

// Elements per plane in a part of a tile.
template <typename L>
__device__ __forceinline__ typename L::Real part_count(const Plan& plan, int part) {
  const int64_t vectors = min(int64_t(plan.part_vectors), plan.vectors - int64_t(part) * plan.part_vectors);
  return static_cast<typename L::Real>(vectors * (L::kGroup * L::kVector / L::kPlanes));
}

constexpr int kPartialNumbers = 3;  // per part and plane, at most

// Where the numbers of a part and a plane lie in the workspace.
template <typename Real>
__device__ __forceinline__ Real* partial(const AdainArguments& a, int64_t part, int which) {
  return static_cast<Real*>(a.workspace) + (part * kPartialNumbers + which) * a.batch * a.channels;
}

template <typename Real>
__device__ __forceinline__ Real* scratch_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<Real*>(shared_bytes);
}

// This thread's first place in the shared memory behind the scratch, whose size is scratch_bytes() of
// adain_cuda_plan.h.
template <typename L>
__device__ __forceinline__ typename L::Vector* slot_memory(const Plan& plan) {
  const size_t numbers = size_t(block_sum_scratch(blockDim.x, plan.columns, L::kPlanes)) * 3;
  const size_t bytes = (numbers * sizeof(typename L::Real) + 15) / 16 * 16;
  auto* behind = reinterpret_cast<unsigned char*>(scratch_memory<typename L::Real>()) + bytes;
  return reinterpret_cast<typename L::Vector*>(behind) + threadIdx.x;
}

// Calls use(vectors, offset, number) for every unit of the thread, with its vectors of each tensor and its place in the
// smaller one of x and y.
template <typename L, Route kRoute, int kTensors, int kCount, typename Use>
__device__ __forceinline__ void for_each_unit(typename L::Vector (&held)[kCount][kTensors],
                                              const typename L::Element* const (&tensors)[kTensors],
                                              typename L::Vector* slots, const AdainArguments& a,
                                              const Span<typename L::Jump>& span, const Plan& plan, const Use& use) {
  constexpr bool kAgain = kRoute == Route::kFinish;
  constexpr int kUnits = kCount / L::kGroup;
  for (int chunk = plan.chunks - 1; chunk >= (kAgain ? 0 : plan.chunks - 1); --chunk) {
    if constexpr (kAgain) {
      load_chunk<L>(held, tensors, a, plan, span, chunk);
    }
    int64_t offset = span.offset + chunk * kUnits * span.jump;
#pragma unroll
    for (int k = 0; k < kUnits; ++k, offset += span.jump) {
      if (k * L::kGroup < span.vectors - chunk * kCount) {
        use(&held[k * L::kGroup], offset, chunk * kUnits + k);
      }
    }
  }
  if constexpr (kRoute == Route::kOnChip) {
    const int kept = min((plan.chunks - 1) * kCount, span.vectors) / L::kGroup;
    int64_t offset = span.offset;
    const typename L::Vector* place = slots;
#pragma unroll 1
    for (int number = 0; number < kept; ++number, offset += span.jump) {
      typename L::Vector now[L::kGroup][kTensors];
#pragma unroll
      for (int v = 0; v < L::kGroup; ++v) {
#pragma unroll
        for (int t = 0; t < kTensors; ++t, place += blockDim.x) {
          now[v][t] = *place;
        }
      }
      use(&now[0], offset, number);
    }
  }
}

}  // namespace
}  // namespace m2o_fast
