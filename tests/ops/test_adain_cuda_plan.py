"""How csrc/adain/adain_cuda_plan.h divides the work of a call: host code, so plain C++ can try it."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

PROGRAM = r"""
#include "adain/adain_cuda_plan.h"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

using namespace m2o_fast;

#define CHECK(condition)                                                                                        \
  if (!(condition)) {                                                                                           \
    std::printf("%s: N %ld C %ld P %ld nhwc %d vector %d tensors %d shared %d cluster %d: route %d threads %d " \
                "columns %d parts %d chunks %d\n", #condition, long(work.batch), long(work.channels),           \
                long(work.plane), work.channels_last, work.vector, work.tensors, device.shared_bytes,           \
                device.most_cluster, int(plan.route), plan.threads, plan.columns, plan.parts, plan.chunks);         \
    std::exit(1);                                                                                               \
  }

int routes[4], clusters, large;

// Whether two blocks fit a multiprocessor, of which each takes 1 KB besides.
bool two_fit(const Workload& work, const Device& device, const Plan& plan) {
  return 2 * plan.threads <= on_chip_threads(work.channels_last) &&
         2 * (plan.shared_bytes + 1024) <= size_t(device.shared_bytes) + 1024;
}

// A vector of the plan may be a group of vectors of x that are one vector or half of one in y: adain_cuda_layout.cuh.
void check(const Workload& work, const Device& device, int group) {
  const Plan plan = plan_call(work, device);
  ++routes[int(plan.route)];
  const int held = plan.route == Route::kOnChip ? work.held_on_chip : work.held;
  CHECK(plan.threads % 32 == 0 && plan.threads >= 32 && plan.threads <= 1024);
  CHECK(plan.columns >= 1 && (plan.columns & (plan.columns - 1)) == 0 && 32 % plan.columns == 0);
  CHECK(plan.shared_bytes <= size_t(device.shared_bytes));
  CHECK(plan.vectors * work.vector == work.plane || work.channels_last);
  CHECK(plan.by_parts.quotient(plan.parts) == 1 && plan.by_parts.quotient(plan.parts - 1) == 0);
  CHECK(plan.by_tiles.quotient(plan.tiles) == work.batch && plan.by_tiles.quotient(plan.tiles - 1) == work.batch - 1);
  if (plan.route == Route::kLanes) {
    CHECK(!work.channels_last && plan.tiles == work.batch * work.channels && plan.parts == 1);
    CHECK(plan.columns * held >= plan.vectors && plan.part_vectors == plan.vectors);
    return;
  }
  const int64_t across = work.channels_last ? plan.tiles / work.batch * plan.columns : plan.tiles / work.batch;
  CHECK(across * (work.channels_last ? work.vector : 1) >= work.channels);
  // Every vector is in one part, and in a chunk of one thread.
  CHECK(int64_t(plan.part_vectors) * plan.parts >= plan.vectors);
  CHECK(int64_t(plan.threads / plan.columns) * held * plan.chunks >= plan.part_vectors);
  // offsets within a part are 32 bits wide; a group's steps are those of y
  CHECK(int64_t(plan.part_vectors) * work.vector / group < (int64_t(1) << 31));
  if (plan.route == Route::kOnChip) {
    CHECK(work.on_chip && plan.threads <= on_chip_threads(work.channels_last));
    CHECK(plan.parts <= device.most_cluster && (plan.parts & (plan.parts - 1)) == 0);
    const size_t kept = size_t(plan.chunks - 1) * plan.threads * held * work.vector_bytes * work.tensors;
    CHECK(plan.shared_bytes == scratch_bytes(work, plan.threads, plan.columns) + kept);
    clusters += plan.parts > 1;
    if (!two_fit(work, device, plan)) {
      CHECK(2 * plan.parts >= device.most_cluster);
      ++large;
    }
  } else {
    CHECK(plan.route == Route::kPartial && plan.threads == kPassThreads);
    CHECK(int64_t(plan.part_vectors) * (plan.parts - 1) < plan.vectors);  // no part is empty
  }
}

int main() {
  const Device devices[] = {{132, 232448, 8}, {108, 166912, 1}, {46, 101376, 1}, {16, 232448, 8}, {16, 232448, 2}};
  for (const Device& device : devices)
    for (int64_t batch : {1, 8, 33})
      for (int64_t channels : {1, 3, 8, 40, 64, 512, 1000})
        for (int64_t plane : {1L, 2L, 49L, 100L, 256L, 1024L, 4096L, 16384L, 65536L, 65537L, 262144L, 1L << 33})
          for (bool channels_last : {false, true})
            for (int bytes : {2, 4, 8})
              for (int tensors : {1, 2}) {
                const int full = bytes == 8 ? 1 : 16 / bytes;
                const int vector = (channels_last ? channels : plane) % full == 0 ? full : 1;
                const bool on_chip = vector > 1 || !(channels_last || bytes == 8);
                const int held = tensors == 1 ? 8 : 4, statistic = bytes == 8 ? 8 : 4;
                check({batch, channels, plane, channels_last, vector, vector * bytes, statistic, tensors, held, 4,
                       on_chip}, device, 1);
                const int group = channels_last || vector == 1 ? 4 : 2;  // with y half as high and wide
                if (plane % (4 * vector) == 0)
                  check({batch, channels, channels_last ? plane / group : plane, channels_last,
                         channels_last ? vector : vector * group, vector * bytes * group, statistic, tensors,
                         held / group, 4 / group, vector > 1}, device, group);
              }
  // Contiguous float32 planes of these sizes take so many blocks of half a multiprocessor; without clusters one block.
  const struct { int64_t side; int tensors, parts; } cases[] = {{192, 1, 1}, {193, 1, 2}, {256, 1, 2}, {128, 2, 1},
                                                                {192, 2, 2}, {256, 2, 4}};
  for (const auto& [side, tensors, parts] : cases) {
    const Workload work{8, 64, side * side / 4 * 4, false, 4, 16, 4, tensors, tensors == 1 ? 8 : 4, 4, true};
    const Device device = devices[0], without{132, 232448, 1};
    Plan plan = plan_call(work, device);
    CHECK(plan.route == Route::kOnChip && plan.parts == parts && two_fit(work, device, plan));
    plan = plan_call(work, without);
    const bool one_block = plan.route == Route::kOnChip && plan.parts == 1;
    CHECK(parts > 2 || (one_block && two_fit(work, without, plan) == (parts == 1)));
  }
  std::printf("%d %d %d %d %d\n", routes[0], routes[1], routes[2], clusters, large);
}
"""


@needs_compiler
def test_plans_cover_every_vector_and_fit_the_device(tmp_path: Path) -> None:
    counts = counts_of(PROGRAM, tmp_path)
    assert all(counts), f"a route is never taken: {counts}"
