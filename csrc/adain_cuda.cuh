// What the kernels in adain_forward.cu and adain_backward.cu share: where a thread's elements lie, how a tile is kept
// on the chip, the affine map.
//
//   y = LeakyReLU(scale * (x - mean) + beta) with scale = ((1+)gamma) * rstd, mean and rstd per plane
//
// Both passes are bound by memory traffic, so they read x (and the gradient) once wherever a tile fits into the
// registers and the shared memory of a block or of a cluster of blocks; see adain_cuda_plan.h for the routes. Nothing
// is summed by atomics.
#pragma once

#include "adain_cuda.h"
#include "adain_cuda_plan.h"
#include "cuda_common.cuh"

namespace m2o_fast {
namespace {

template <typename Element_, int kVector_, bool kChannelsLast_>
struct Layout {
  using Element = Element_;
  using Real = Arithmetic<Element_>;
  using Vector = Pack<Element_, kVector_>;
  static constexpr int kVector = kVector_;
  static constexpr bool kChannelsLast = kChannelsLast_;
  using Jump = std::conditional_t<kChannelsLast_, int64_t, int>;  // registers are scarce
  // Planes that one vector belongs to; its element e is of plane e % kPlanes.
  static constexpr int kPlanes = kChannelsLast_ ? kVector_ : 1;
  // What is only there to be right gets by with fewer kernels.
  static constexpr bool kOnChip = kVector_ > 1 || !(kChannelsLast_ || std::is_same_v<Element_, double>);
};

// The vectors of each tensor that a thread holds in registers: as many as there is room for where they are to stay,
// else as many as keep the memory busy.
template <Route kRoute, int kTensors>
constexpr int kHeld = kRoute == Route::kOnChip && kTensors == 1 ? 8 : 4;

template <typename L, Route kRoute>
constexpr int kMaxThreads = kRoute == Route::kOnChip  ? on_chip_threads(L::kChannelsLast)
                            : kRoute == Route::kLanes ? kLaneThreads
                                                      : kPassThreads;

// Blocks that fit a multiprocessor together: the registers per thread follow from it.
template <Route kRoute>
constexpr int kMinBlocks = kRoute == Route::kOnChip  ? 1
                           : kRoute == Route::kLanes ? 6
                                                     : 2;

// The vectors of one thread: `vectors` of them, from `offset` on in steps of `jump` elements.
template <typename Jump>
struct Span {
  int64_t image, channel;  // the first plane they belong to
  int64_t offset;
  Jump jump;
  int vectors;            // counted over all chunks
  int rank, ranks, part;  // of this thread among those with the same planes; of the tile
  bool live;              // false: beyond the last plane; the thread only takes part in barriers
  bool writes;            // the statistics or the partial results of its planes
};

// value / divisor, without the long division of 64-bit numbers where 32 bits do.
__device__ __forceinline__ int64_t quotient(int64_t value, int64_t divisor) {
  const bool small = ((value | divisor) >> 32) == 0;
  return small ? static_cast<uint32_t>(value) / static_cast<uint32_t>(divisor) : value / divisor;
}

template <typename L, Route kRoute>
__device__ __forceinline__ Span<typename L::Jump> thread_span(const AdainArguments& a, const Plan& plan) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  Span<typename L::Jump> span;
  int count = plan.part_vectors;
  if constexpr (kRoute == Route::kLanes) {
    const int64_t plane = int64_t(blockIdx.x) * (threads / plan.columns) + thread / plan.columns;
    span.live = plane < plan.tiles;
    span.image = quotient(plane, a.channels);
    span.channel = plane - span.image * a.channels;
    span.rank = thread % plan.columns;
    span.ranks = plan.columns;
    span.part = 0;
    span.jump = span.ranks * L::kVector;
    span.offset = plane * a.plane + span.rank * L::kVector;
  } else {
    // The last pass runs backwards, so that it first meets what the pass before has left in the L2 cache.
    const unsigned block = kRoute == Route::kFinish ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int64_t tile = block / unsigned(plan.parts);
    span.part = static_cast<int>(block % unsigned(plan.parts));
    span.rank = thread / plan.columns;
    span.ranks = threads / plan.columns;
    const int64_t begin = int64_t(span.part) * plan.part_vectors;
    count = static_cast<int>(min(int64_t(count), plan.vectors - begin));
    if constexpr (L::kChannelsLast) {
      const int64_t across = a.channels / L::kVector, tiles = ceil_div(across, plan.columns);
      span.image = quotient(tile, tiles);
      const int64_t column = (tile - span.image * tiles) * plan.columns + thread % plan.columns;
      span.live = column < across;
      span.channel = column * L::kVector;
      span.jump = span.ranks * a.channels;
      span.offset = (span.image * a.plane + begin + span.rank) * a.channels + span.channel;
    } else {
      span.live = true;
      span.image = quotient(tile, a.channels);
      span.channel = tile - span.image * a.channels;
      span.jump = span.ranks * L::kVector;
      span.offset = tile * a.plane + (begin + span.rank) * L::kVector;
    }
  }
  span.writes = span.live && span.rank == 0 && (kRoute == Route::kPartial || span.part == 0);
  span.vectors = span.live && span.rank < count ? (count - span.rank - 1) / span.ranks + 1 : 0;
  return span;
}

template <int kCount, int kTensors, typename Element, int kElements, typename Jump>
__device__ __forceinline__ void load_chunk(Pack<Element, kElements> (&held)[kCount][kTensors],
                                           const Element* const (&tensors)[kTensors], const Span<Jump>& span,
                                           int chunk) {
  int64_t offset = span.offset + chunk * kCount * span.jump;
#pragma unroll
  for (int k = 0; k < kCount; ++k, offset += span.jump) {
    if (k < span.vectors - chunk * kCount) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        held[k][t] = load_pack<Element, kElements>(tensors[t] + offset);
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

template <typename L>
__device__ __forceinline__ typename L::Real load_parameter(const void* parameter, bool wide, int64_t offset) {
  if (wide) {
    return static_cast<const typename L::Real*>(parameter)[offset];
  }
  return widen(static_cast<const typename L::Element*>(parameter)[offset]);
}

// The map from x to y before the LeakyReLU. The backward pass takes its sign.
template <typename L>
struct Affine {
  using Real = typename L::Real;
  Real mean[L::kPlanes], scale[L::kPlanes], shift[L::kPlanes];

  __device__ __forceinline__ Affine(const AdainArguments& a, const Span<typename L::Jump>& span) {
#pragma unroll
    for (int p = 0; span.live && p < L::kPlanes; ++p) {
      const int64_t n = span.image, c = span.channel + p;
      const Real gamma = load_parameter<L>(a.gamma, a.gamma_wide, n * a.gamma_strides[0] + c * a.gamma_strides[1]);
      scale[p] = a.one_plus ? 1 + gamma : gamma;
      shift[p] = load_parameter<L>(a.beta, a.beta_wide, n * a.beta_strides[0] + c * a.beta_strides[1]);
    }
  }

  __device__ __forceinline__ void normalise(int p, Real plane_mean, Real rstd) {
    mean[p] = plane_mean;
    scale[p] *= rstd;
  }

  __device__ __forceinline__ Real preactivation(Real deviation, int p) const {
    return fma(deviation, scale[p], shift[p]);
  }
};

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
  return static_cast<typename L::Real>(vectors * (L::kVector / L::kPlanes));
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

// This thread's first place in the shared memory behind the scratch, whose size is scratch_bytes() of adain_plan.h.
template <typename L>
__device__ __forceinline__ typename L::Vector* slot_memory(const Plan& plan) {
  const size_t numbers = size_t(block_sum_scratch(blockDim.x, plan.columns, L::kPlanes)) * 3;
  const size_t bytes = (numbers * sizeof(typename L::Real) + 15) / 16 * 16;
  auto* behind = reinterpret_cast<unsigned char*>(scratch_memory<typename L::Real>()) + bytes;
  return reinterpret_cast<typename L::Vector*>(behind) + threadIdx.x;
}

// Calls use(vectors, offset) for every place of the thread, with one vector of each tensor.
template <typename L, Route kRoute, int kTensors, int kCount, typename Use>
__device__ __forceinline__ void for_each_vector(typename L::Vector (&held)[kCount][kTensors],
                                                const typename L::Element* const (&tensors)[kTensors],
                                                typename L::Vector* slots, const Span<typename L::Jump>& span,
                                                const Plan& plan, const Use& use) {
  constexpr bool kAgain = kRoute == Route::kFinish;
  for (int chunk = plan.chunks - 1; chunk >= (kAgain ? 0 : plan.chunks - 1); --chunk) {
    if constexpr (kAgain) {
      load_chunk(held, tensors, span, chunk);
    }
    int64_t offset = span.offset + chunk * kCount * span.jump;
#pragma unroll
    for (int k = 0; k < kCount; ++k, offset += span.jump) {
      if (k < span.vectors - chunk * kCount) {
        use(held[k], offset);
      }
    }
  }
  if constexpr (kRoute == Route::kOnChip) {
    const int kept = min((plan.chunks - 1) * kCount, span.vectors);
    int64_t offset = span.offset;
    const typename L::Vector* place = slots;
#pragma unroll 1
    for (int number = 0; number < kept; ++number, offset += span.jump) {
      typename L::Vector now[kTensors];
#pragma unroll
      for (int t = 0; t < kTensors; ++t, place += blockDim.x) {
        now[t] = *place;
      }
      use(now, offset);
    }
  }
}

}  // namespace
}  // namespace m2o_fast
