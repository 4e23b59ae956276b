"""How csrc/modulate/modulate_cuda_plan.h divides the work of a call: host code, so plain C++ can try it."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

PROGRAM = r"""
#include "modulate/modulate_cuda_plan.h"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

using namespace m2o_fast;

#define CHECK(condition)                                                                                           \
  if (!(condition)) {                                                                                              \
    std::printf("%s: N %ld C %ld P %ld nhwc %d vector %d: lanes %d columns %d parts %d of %d units %ld\n",         \
                #condition, long(work.batch), long(work.channels), long(work.plane), work.channels_last,           \
                work.vector, plan.lanes, plan.columns, plan.parts, plan.part_vectors, long(plan.units));           \
    std::exit(1);                                                                                                  \
  }

int lanes, whole, divided, capped;

void check(const ModulateWork& work, int multiprocessors) {
  const ModulatePlan plan = plan_modulate(work, multiprocessors);
  CHECK(plan.threads == kModulateThreads);
  CHECK(plan.columns >= 1 && (plan.columns & (plan.columns - 1)) == 0 && 32 % plan.columns == 0);
  CHECK(plan.vectors * (work.channels_last ? 1 : work.vector) == work.plane);
  CHECK(plan.parts >= 1 && plan.part_vectors >= 1 && plan.part_vectors <= kModulateMostVectors);
  // Every vector is in one part, and no part is empty.
  CHECK(int64_t(plan.part_vectors) * plan.parts >= plan.vectors);
  CHECK(int64_t(plan.part_vectors) * (plan.parts - 1) < plan.vectors);
  const int64_t blocks = plan.turns, tiles = plan.units / plan.parts;
  CHECK(plan.blocks >= 1 && plan.blocks <= kModulateMostBlocks && (plan.blocks == blocks || plan.blocks < blocks));
  CHECK(plan.by_parts.quotient(plan.parts) == 1 && plan.by_parts.quotient(plan.parts - 1) == 0);
  CHECK(plan.by_tiles.quotient(tiles) == work.batch && plan.by_tiles.quotient(tiles - 1) == work.batch - 1);
  if (plan.lanes) {
    CHECK(!work.channels_last && plan.parts == 1 && plan.units == work.batch * work.channels);
    CHECK(int64_t(plan.columns) * work.held >= plan.vectors && plan.columns <= 32);
    CHECK(blocks * (plan.threads / plan.columns) >= plan.units);
    ++lanes;
    return;
  }
  CHECK(plan.columns <= 8 && (work.channels_last || plan.columns == 1));  // the kernel's shared memory holds no more
  CHECK(blocks == plan.units);
  const int64_t across = plan.units / plan.parts / work.batch * (work.channels_last ? plan.columns * work.vector : 1);
  CHECK(plan.units % plan.parts == 0 && across >= work.channels && across < work.channels + 8 * work.vector);
  CHECK(plan.parts == 1 || plan.units < 16 * int64_t(multiprocessors) || plan.vectors > kModulateMostVectors);
  plan.parts == 1 ? ++whole : ++divided;
  capped += plan.blocks < blocks;
}

int main() {
  for (int multiprocessors : {1, 16, 132})
    for (int64_t batch : {1L, 8L, 33L, 1L << 32})
      for (int64_t channels : {1, 3, 8, 40, 64, 512, 1000})
        for (int64_t plane : {1L, 2L, 49L, 100L, 256L, 1024L, 4096L, 65536L, 65537L, 1L << 33})
          for (bool channels_last : {false, true})
            for (int full : {1, 4, 8}) {
              const int vector = (channels_last ? channels : plane) % full == 0 ? full : 1;
              check({batch, channels, plane, channels_last, vector, 4}, multiprocessors);
            }
  std::printf("%d %d %d %d\n", lanes, whole, divided, capped);
}
"""


@needs_compiler
def test_plans_cover_every_vector_once(tmp_path: Path) -> None:
    counts = counts_of(PROGRAM, tmp_path)
    assert all(counts), f"a case never occurs: {counts}"
