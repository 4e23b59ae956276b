// How the work of one scale_bias_act call is divided among the blocks of a GPU: host code without CUDA, so it can be
// read and tested alone.
//
// A unit is what one team of threads works on: a part of a plane (NCHW), or a part of the pixels of one image for
// `columns` neighbouring channel vectors (channels_last). Everything is read once, so any division is right; it has to
// keep the GPU busy and leave few parts, whose sums are added in a second, tiny kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common.h"
#include "divisor.h"

namespace m2o_fast {

struct ModulatePlan {
  bool lanes;        // NCHW, small planes: the team is `columns` neighbouring lanes of a warp. Else it is a block.
  int threads;       // per block
  int columns;       // lanes: lanes per plane. Else: channel vectors side by side in a block, 1 for NCHW
  int parts;         // per plane
  int part_vectors;  // vectors (per column) per part
  int64_t vectors;   // vectors (per column) per plane
  int64_t units;
  int64_t turns;               // units, or with lanes blocks of them
  unsigned blocks;             // of the grid: they take further turns where there are more than it holds
  Divisor by_parts, by_tiles;  // by parts, and by the tiles of an image: lanes or NCHW: its planes
};

struct ModulateWork {
  int64_t batch, channels, plane;
  bool channels_last;
  int vector;  // elements per vector
  int held;    // vectors of one tensor that a thread reads at a time
};

constexpr int kModulateThreads = 256;
constexpr int kModulateMostParts = 64;
constexpr int64_t kModulateMostBlocks = 2147483647;         // of a grid
constexpr int64_t kModulateMostVectors = int64_t(1) << 26;  // of a part: its counters are 32 bits wide

inline ModulatePlan plan_modulate(const ModulateWork& work, int multiprocessors) {
  ModulatePlan plan{};
  plan.threads = kModulateThreads;
  plan.columns = 1;
  plan.parts = 1;
  plan.vectors = work.channels_last ? work.plane : work.plane / work.vector;
  plan.units = work.batch * work.channels;
  plan.lanes = !work.channels_last && plan.vectors <= 32 * int64_t(work.held);
  if (plan.lanes) {
    while (plan.columns < 32 && plan.columns * int64_t(work.held) < plan.vectors) {
      plan.columns *= 2;
    }
    plan.part_vectors = int(plan.vectors);
  } else {
    if (work.channels_last) {
      const int64_t across = work.channels / work.vector;
      while (plan.columns < 8 && plan.columns < across) {  // 8 x 16 bytes is a cache line
        plan.columns *= 2;
      }
      plan.units = work.batch * ceil_div(across, plan.columns);
    }
    const int64_t at_a_time = int64_t(plan.threads / plan.columns) * work.held;
    const int64_t wanted =
        std::clamp<int64_t>(ceil_div(8 * int64_t(multiprocessors), plan.units), 1, kModulateMostParts);
    const int64_t parts =
        std::max(std::min(wanted, ceil_div(plan.vectors, at_a_time)), ceil_div(plan.vectors, kModulateMostVectors));
    plan.part_vectors = int(ceil_div(plan.vectors, parts));
    plan.parts = int(ceil_div(plan.vectors, plan.part_vectors));
  }
  plan.by_parts = Divisor(plan.parts);
  plan.by_tiles = Divisor(plan.units / work.batch);
  plan.units *= plan.parts;
  plan.turns = plan.lanes ? ceil_div(plan.units, plan.threads / plan.columns) : plan.units;
  plan.blocks = unsigned(std::min(plan.turns, kModulateMostBlocks));
  return plan;
}

}  // namespace m2o_fast
