// How the work of one adain call is divided among the blocks of a GPU: host code without CUDA, so it can be read and
// tested alone.
//
// The unit is a tile: the vectors (16 bytes, or one element) over which one statistic, or one vector of statistics, is
// taken. NCHW: the plane of one image and channel. Channels-last: all pixels of one image for `columns` neighbouring
// channel vectors. Where y is half as high and wide as x, the vectors that end up in one vector of y stay together:
// what is called a vector here is that group of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common.h"
#include "divisor.h"

namespace m2o_fast {

enum class Route {
  kLanes,    // a small NCHW plane per group of lanes of one warp, in registers: x is read once
  kOnChip,   // a tile per block, or per cluster of blocks, in registers and shared memory: x is read once
  kPartial,  // a tile is too large for that: first, each block reduces its part of a tile into the workspace;
  kFinish,   // then the results of the parts are combined, and x is read a second time
};

struct Plan {
  Route route;
  int threads;       // per block
  int columns;       // kLanes: lanes per plane. Else: channel vectors per tile, side by side in a block
  int parts;         // blocks per tile; with kOnChip they form a cluster
  int chunks;        // what a thread holds in registers at a time is a chunk; so many for its share of a tile
  int part_vectors;  // vectors (per column) per part
  int64_t vectors;   // vectors (per column) per tile
  int64_t tiles;
  size_t shared_bytes;
  Divisor by_parts, by_tiles;  // by parts, and by the tiles (kLanes: planes) of an image
  Divisor by_row;              // by the units in a row, where y is resampled: see adain_cuda_layout.cuh
};

struct Workload {
  int64_t batch, channels, plane;
  bool channels_last;
  int vector;  // elements per vector; channels-last: channels
  int vector_bytes;
  int statistic_bytes;  // of one number in float32 or float64
  int tensors;          // read per element: x, and in the backward pass the gradient
  int held_on_chip;     // vectors of one tensor that a thread holds in registers, on kOnChip
  int held;             // and on the other routes
  bool on_chip;         // whether there is a kernel for kOnChip
};

struct Device {
  int multiprocessors;
  int shared_bytes;  // the most that one block can have
  int most_cluster;  // blocks that can form a cluster: a power of two up to kMaxCluster; 1: it has no clusters
};

constexpr int kLaneThreads = 128;                   // of a block on kLanes
constexpr int kPassThreads = 256;                   // of a block on kPartial and kFinish
constexpr int kMaxCluster = 8;                      // what every GPU with clusters can run
constexpr int64_t kCachedBytes = int64_t(1) << 25;  // what fits the L2 cache of every GPU from the A100 on
// So many threads leave each the 80 or 128 registers, which the kernels need.
constexpr int on_chip_threads(bool channels_last) { return channels_last ? 512 : 768; }

// Shared memory for the sums of a block: room for every warp's and the total of `columns` x vector x 2 numbers.
inline size_t scratch_bytes(const Workload& work, int threads, int columns) {
  const int numbers = work.channels_last ? work.vector : 1;
  const size_t bytes = size_t(threads / 32 + 2) * columns * numbers * 3 * work.statistic_bytes;
  return (bytes + 15) / 16 * 16;
}

// Fits a part of a tile into at most `max_threads` threads and `max_shared` bytes; false if it does not fit.
inline bool fit_on_chip(const Workload& work, int max_threads, size_t max_shared, Plan& plan) {
  const int64_t part = ceil_div(plan.vectors, plan.parts);
  const int64_t chunks = ceil_div(part * plan.columns, int64_t(max_threads) * work.held_on_chip);
  if (chunks > 1024) {
    return false;
  }
  plan.threads = int(ceil_div(ceil_div(part * plan.columns, chunks * work.held_on_chip), 32) * 32);
  plan.chunks = int(ceil_div(part, int64_t(plan.threads / plan.columns) * work.held_on_chip));
  plan.part_vectors = int(part);
  // All chunks but the last wait in shared memory.
  plan.shared_bytes = scratch_bytes(work, plan.threads, plan.columns) +
                      size_t(plan.chunks - 1) * plan.threads * work.held_on_chip * work.vector_bytes * work.tensors;
  return plan.shared_bytes <= max_shared;
}

// The same where so many blocks share a multiprocessor.
inline bool fit_blocks(const Workload& work, const Device& device, int blocks, Plan& plan) {
  const size_t shared = (size_t(device.shared_bytes) + 1024) / blocks - 1024;  // each block costs 1 KB besides
  return fit_on_chip(work, on_chip_threads(work.channels_last) / blocks, shared, plan);
}

// The same in the smallest cluster that will do.
inline bool fit_cluster(const Workload& work, const Device& device, int blocks, Plan& plan) {
  for (plan.parts = 1; plan.parts <= device.most_cluster; plan.parts *= 2) {
    if (fit_blocks(work, device, blocks, plan)) {
      return true;
    }
  }
  return false;
}

inline int64_t tile_count(const Workload& work, int columns) {
  const int64_t across = work.channels_last ? ceil_div(work.channels / work.vector, columns) : work.channels;
  return work.batch * across;
}

// Channel vectors side by side: 8 x 16 bytes is a cache line.
inline int widest_columns(const Workload& work) {
  int columns = 1;
  while (work.channels_last && columns < 8 && columns < work.channels / work.vector) {
    columns *= 2;
  }
  return columns;
}

inline void plan_in_lanes(const Workload& work, Plan& plan) {
  plan.route = Route::kLanes;
  plan.threads = kLaneThreads;
  plan.columns = 1;
  while (plan.columns < 32 && plan.columns * work.held < plan.vectors) {
    plan.columns *= 2;
  }
  plan.parts = plan.chunks = 1;
  plan.part_vectors = int(plan.vectors);
  plan.shared_bytes = 0;
}

// False where a tile is too large for that, or there are too few of them.
inline bool plan_on_chip(const Workload& work, const Device& device, Plan& plan) {
  plan.route = Route::kOnChip;
  plan.columns = widest_columns(work);
  plan.parts = 1;
  if (plan.columns == 8 && !fit_blocks(work, device, 2, plan)) {
    plan.columns = 4;
  }
  if (plan.columns == 8 && tile_count(work, 8) < 2 * device.multiprocessors) {
    plan.columns = 4;
  }
  const int64_t bytes = work.batch * work.channels * work.plane / work.vector * work.vector_bytes;
  if (plan.columns == 4 && tile_count(work, 4) < device.multiprocessors && bytes <= kCachedBytes) {
    plan.columns = 2;  // a quarter of a cache line, but the cache has the rest of it when another block asks
  }
  // Two blocks per multiprocessor overlap the reading of one with the writing of the other: a cluster of small blocks
  // comes before a large block.
  const int blocks = fit_cluster(work, device, 2, plan) ? 2 : 1;
  if (blocks == 1 && !fit_cluster(work, device, 1, plan)) {
    return false;
  }
  // Too few tiles for all multiprocessors: divide them further, as long as every block keeps a few warps busy.
  const auto worth_dividing = [&] {
    return tile_count(work, plan.columns) * plan.parts * 2 <= device.multiprocessors &&
           plan.threads * plan.chunks >= 512;
  };
  while (plan.parts < device.most_cluster && worth_dividing()) {
    plan.parts *= 2;
    fit_blocks(work, device, blocks, plan);
  }
  return !worth_dividing();
}

inline void plan_in_two_passes(const Workload& work, const Device& device, Plan& plan) {
  plan.route = Route::kPartial;
  plan.threads = kPassThreads;
  plan.columns = widest_columns(work);
  const int64_t rows = int64_t(plan.threads / plan.columns) * work.held;  // what a block reads at a time
  const int64_t tiles = tile_count(work, plan.columns);
  const int64_t wanted = std::clamp<int64_t>(ceil_div(8 * int64_t(device.multiprocessors), tiles), 1, 64);
  const int64_t parts =
      std::max(std::min(wanted, ceil_div(plan.vectors, rows)), ceil_div(plan.vectors, int64_t(1) << 27));
  plan.part_vectors = int(ceil_div(plan.vectors, parts));
  plan.parts = int(ceil_div(plan.vectors, plan.part_vectors));
  plan.chunks = int(ceil_div(plan.part_vectors, rows));
  plan.shared_bytes = scratch_bytes(work, plan.threads, plan.columns);
}

inline Plan plan_call(const Workload& work, const Device& device) {
  Plan plan{};
  plan.vectors = work.channels_last ? work.plane : work.plane / work.vector;
  if (!work.channels_last && plan.vectors <= 32 * work.held) {
    plan_in_lanes(work, plan);
  } else if (!work.on_chip || !plan_on_chip(work, device, plan)) {
    plan_in_two_passes(work, device, plan);
  }
  plan.tiles = tile_count(work, plan.columns);
  plan.by_parts = Divisor(plan.parts);
  plan.by_tiles = Divisor(plan.tiles / work.batch);
  return plan;
}

}  // namespace m2o_fast
