"""How csrc/residual/residual_cuda_plan.h divides the work of a call: host code, so plain C++ can try it."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

PROGRAM = r"""
#include "residual/residual_cuda_plan.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace m2o_fast;

#define CHECK(condition)                                                                                      \
  if (!(condition)) {                                                                                         \
    std::printf("%s: N %ld C %ld h %ld w %ld nhwc %d bytes %d\n", #condition, n, c, h, w, int(nhwc), bytes); \
    std::exit(1);                                                                                             \
  }

int taken[3];

// Every number of both grids belongs to exactly one thread, and a thread's fine numbers are those of its coarse ones.
template <QuadAccess access>
void check_cover(const QuadShape& shape, long n, long c, long h, long w, bool nhwc, int bytes) {
  const int numbers = quad_numbers(access, bytes);
  const int64_t total = shape.rows * shape.coarse_row();
  const QuadDivisors divisors(shape);
  CHECK(total % numbers == 0 && total == n * c * h * w);
  std::vector<int> coarse(total), fine(4 * total);
  // position of a coarse or fine number in its plane and the plane: independent of the code under test
  const auto place = [&](int64_t at, long height, long width, long (&where)[3]) {
    const long image = at / (c * height * width), rest = at % (c * height * width);
    const long channel = nhwc ? rest % c : rest / (height * width);
    const long pixel = nhwc ? rest / c : rest % (height * width);
    where[0] = image * c + channel, where[1] = pixel / width, where[2] = pixel % width;
  };
  for (int64_t item = 0; item < total / numbers; ++item) {
    const QuadSpot spot = quad_spot<access>(shape, divisors, numbers, item);
    CHECK(numbers == 1 || (spot.coarse * bytes % 8 == 0 && spot.left * bytes % 16 == 0));
    CHECK(access != QuadAccess::runs || spot.right == spot.left + numbers);
    for (int e = 0; e < numbers; ++e) {
      ++coarse[spot.coarse + e];
    }
    for (int row = 0; row < 2; ++row) {
      for (int e = 0; e < 2 * numbers; ++e) {
        const int64_t at = (e < numbers ? spot.left + e : spot.right + e - numbers) + row * shape.fine_row();
        const int owner = access == QuadAccess::runs ? e / 2 : e % numbers;
        long small[3], large[3];
        place(spot.coarse + owner, h, w, small);
        place(at, 2 * h, 2 * w, large);
        CHECK(small[0] == large[0] && small[1] == large[1] / 2 && small[2] == large[2] / 2);
        ++fine[at];
      }
    }
  }
  for (int64_t at = 0; at < 4 * total; ++at) {
    CHECK(fine[at] == 1 && coarse[at / 4] == 1);
  }
}

int main() {
  for (long n : {1, 2})
    for (long c : {1, 3, 8, 12})
      for (long h : {1, 3, 4})
        for (long w : {1, 2, 4, 6, 7})
          for (bool nhwc : {false, true})
            for (int bytes : {2, 4, 8})
              for (bool aligned : {false, true}) {
                const QuadShape shape = nhwc ? QuadShape{n * h, w, c, true} : QuadShape{n * c * h, w, 1, false};
                const QuadAccess access = quad_access(shape, bytes, aligned);
                ++taken[int(access)];
                CHECK(aligned || access == QuadAccess::single);
                if (access == QuadAccess::runs) check_cover<QuadAccess::runs>(shape, n, c, h, w, nhwc, bytes);
                if (access == QuadAccess::pixels) check_cover<QuadAccess::pixels>(shape, n, c, h, w, nhwc, bytes);
                check_cover<QuadAccess::single>(shape, n, c, h, w, nhwc, bytes);
              }
  const long n = 0, c = 0, h = 0, w = 0;
  const bool nhwc = false;
  const int bytes = 0;
  CHECK(quad_blocks(1) == 1 && quad_blocks(256) == 1 && quad_blocks(257) == 2);
  CHECK(quad_blocks(int64_t(1) << 62) == 2147483647);
  // offsets beyond 32 bits: the last number of 2^40
  const QuadShape large{int64_t(1) << 20, int64_t(1) << 20, 1, false};
  const QuadSpot last = quad_spot<QuadAccess::single>(large, QuadDivisors(large), 1, (int64_t(1) << 40) - 1);
  CHECK(last.coarse == (int64_t(1) << 40) - 1 && last.right + large.fine_row() == (int64_t(1) << 42) - 1);
  std::printf("%d %d %d\n", taken[0], taken[1], taken[2]);
}
"""


@needs_compiler
def test_every_number_is_one_threads(tmp_path: Path) -> None:
    counts = counts_of(PROGRAM, tmp_path)
    assert all(counts), f"an access is never taken: {counts}"
