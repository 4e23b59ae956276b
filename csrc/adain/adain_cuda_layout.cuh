// Which elements each thread of the kernels in adain_forward.cuh and adain_backward.cuh works on.
#pragma once

#include "adain_cuda.h"
#include "adain_cuda_plan.h"
#include "cuda_common.cuh"

namespace m2o_fast {
namespace {

template <typename Element_, int kVector_, bool kChannelsLast_, Resample kResample>
struct Layout {
  using Element = Element_;
  using Real = Arithmetic<Element_>;
  using Vector = Pack<Element_, kVector_>;
  static constexpr int kVector = kVector_;
  static constexpr bool kChannelsLast = kChannelsLast_;
  using Jump = std::conditional_t<kChannelsLast_, int64_t, int>;  // registers are scarce
  // Planes that one vector belongs to; its element e is of plane e % kPlanes.
  static constexpr int kPlanes = kChannelsLast_ ? kVector_ : 1;
  static constexpr bool kUp = kResample == Resample::up2, kDown = kResample == Resample::down2;
  // A unit is a vector of the smaller one of x and y, or with kDown half a vector where that suffices: see Square.
  static constexpr bool kOnePixel = kChannelsLast_ || kVector_ == 1;
  static constexpr int kUnit = kDown && !kOnePixel ? kVector_ / 2 : kVector_;
  // Vectors of x per unit.
  static constexpr int kGroup = !kDown ? 1 : kOnePixel ? 4 : 2;
  // Columns of pixels of the smaller tensor that a unit spans.
  static constexpr int kWidth = kChannelsLast ? 1 : kUnit;
  // What is only there to be right gets by with fewer kernels.
  static constexpr bool kOnChip =
      kVector_ > 1 || !(kChannelsLast_ || std::is_same_v<Element_, double> || kResample != Resample::none);
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

// The units of one thread: in the smaller one of x and y, from `offset` on in steps of `jump` elements.
template <typename Jump>
struct Span {
  int64_t image, channel;  // the first plane they belong to
  int64_t offset;
  Jump jump;
  int64_t unit;           // the first one's number in the tile
  int vectors;            // of x, counted over all chunks
  int rank, ranks, part;  // of this thread among those with the same planes; of the tile
  bool live;              // false: beyond the last plane; the thread only takes part in barriers
  bool writes;            // the statistics or the partial results of its planes
};

template <typename L, Route kRoute>
__device__ __forceinline__ Span<typename L::Jump> thread_span(const AdainArguments& a, const Plan& plan) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t smaller_plane = L::kDown ? a.plane / 4 : a.plane;
  Span<typename L::Jump> span;
  int count = plan.part_vectors;
  if constexpr (kRoute == Route::kLanes) {
    const int64_t plane = int64_t(blockIdx.x) * (threads / plan.columns) + thread / plan.columns;
    span.live = plane < plan.tiles;
    const auto place = plan.by_tiles.divide(plane);
    span.image = place.quotient;
    span.channel = place.remainder;
    span.rank = thread % plan.columns;
    span.ranks = plan.columns;
    span.part = 0;
    span.jump = span.ranks * L::kUnit;
    span.unit = span.rank;
    span.offset = plane * smaller_plane + span.rank * L::kUnit;
  } else {
    // The last pass runs backwards, so that it first meets what the pass before has left in the L2 cache.
    const unsigned block = kRoute == Route::kFinish ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const auto share = plan.by_parts.divide(block), place = plan.by_tiles.divide(share.quotient);
    span.part = static_cast<int>(share.remainder);
    span.image = place.quotient;
    span.rank = thread / plan.columns;
    span.ranks = threads / plan.columns;
    const int64_t begin = int64_t(span.part) * plan.part_vectors;
    span.unit = begin + span.rank;
    count = static_cast<int>(min(int64_t(count), plan.vectors - begin));
    if constexpr (L::kChannelsLast) {
      const int64_t column = place.remainder * plan.columns + thread % plan.columns;
      span.live = column < a.channels / L::kVector;
      span.channel = column * L::kVector;
      span.jump = span.ranks * a.channels;
      span.offset = (span.image * smaller_plane + begin + span.rank) * a.channels + span.channel;
    } else {
      span.live = true;
      span.channel = place.remainder;
      span.jump = span.ranks * L::kUnit;
      span.offset = share.quotient * smaller_plane + (begin + span.rank) * L::kUnit;
    }
  }
  span.writes = span.live && span.rank == 0 && (kRoute == Route::kPartial || span.part == 0);
  span.vectors = span.live && span.rank < count ? ((count - span.rank - 1) / span.ranks + 1) * L::kGroup : 0;
  return span;
}

}  // namespace
}  // namespace m2o_fast
