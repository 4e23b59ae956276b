"""How csrc/histogram/histogram_cuda_plan.h divides the work of calls: host code, so plain C++ can try it."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

PROGRAM = r"""
#include "histogram/histogram_cuda_plan.h"
#include "histogram/soft_histogram.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

using namespace m2o_fast;

#define CHECK(condition)                                                                                     \
  if (!(condition)) {                                                                                        \
    std::printf("line %d: %s; N %ld H %ld W %ld\n", __LINE__, #condition, long(x.count), long(x.height), \
                long(x.width));                                                                              \
    std::exit(1);                                                                                            \
  }

int kinds[3];

void check_work(const Images& x) {
  const int64_t pixels = x.height * x.width;
  const FitPlan fit = plan_fit(x);
  CHECK(fit.parts >= 1 && fit.part_pixels % 16 == 0);
  CHECK(fit.parts * fit.part_pixels >= pixels && (fit.parts == 1 || (fit.parts - 1) * fit.part_pixels < pixels));
  CHECK(fit.parts <= 1024);
  for (int bits = 1; bits <= 8; ++bits) {
    const SetPlan set = plan_sets(x, bits);
    ++kinds[int(set.kind)];
    CHECK(set.parts * set.part_pixels >= pixels && (set.parts == 1 || (set.parts - 1) * set.part_pixels < pixels));
    if (set.kind == SetKind::kSharedHash) {
      CHECK(set.words >= 2 * pixels && set.words <= kSharedWords && (set.words & (set.words - 1)) == 0);
    } else {
      CHECK(set.words * 32 >= int64_t{1} << 3 * bits);
    }
    if (set.kind == SetKind::kGlobalBits) {
      CHECK(set.part_pixels % 16 == 0 && set.images_at_once >= 1);
      CHECK(set.images_at_once * set.words * 4 <= int64_t{1} << 26);
    } else {
      CHECK(set.words <= kSharedWords && set.parts == 1 && set.images_at_once == x.count);
    }
  }
}

void check_layouts() {
  alignas(16) static char memory[64];
  const auto planar = [&](Pixel pixel, int64_t h, int64_t w) {
    return Images{memory, pixel, 4, h, w, 3 * h * w, h * w, w, 1};
  };
  const auto packed = [&](Pixel pixel, int64_t h, int64_t w) {
    return Images{memory, pixel, 4, h, w, 3 * h * w, 1, 3 * w, 3};
  };
  Images x = planar(Pixel::uint8, 4, 4);
  const auto is = [](PixelLayout layout, const Images& images, const Images* content = nullptr) {
    return layout_of(images, content) == layout;
  };
  CHECK(is(PixelLayout::kPlanar, x));
  CHECK(is(PixelLayout::kInterleaved, packed(Pixel::uint8, 4, 4)));
  CHECK(is(PixelLayout::kStrided, planar(Pixel::uint8, 4, 3)));
  CHECK(is(PixelLayout::kStrided, packed(Pixel::uint8, 2, 4)));
  CHECK(is(PixelLayout::kPlanar, planar(Pixel::float32, 4, 3)));
  CHECK(is(PixelLayout::kPlanar, planar(Pixel::float64, 2, 1)));
  CHECK(is(PixelLayout::kStrided, planar(Pixel::float16, 1, 4)));
  CHECK(is(PixelLayout::kPlanar, planar(Pixel::float16, 1, 8)));
  Images content = {memory, Pixel::uint8, 4, 4, 4, 16, 0, 4, 1};
  CHECK(is(PixelLayout::kPlanar, x, &content) && is(PixelLayout::kInterleaved, packed(Pixel::uint8, 4, 4), &content));
  content.column_stride = 2, content.row_stride = 8;
  CHECK(is(PixelLayout::kStrided, x, &content));
  content = {memory + 1, Pixel::uint8, 4, 4, 4, 16, 0, 4, 1};
  CHECK(is(PixelLayout::kStrided, x, &content));
  const auto broken = [&](auto change) {
    Images images = planar(Pixel::uint8, 4, 4);
    change(images);
    CHECK(is(PixelLayout::kStrided, images));
  };
  broken([&](Images& images) { images.data = memory + 1; });
  broken([&](Images& images) { images.channel_stride = 17; });
  broken([&](Images& images) { images.image_stride = 49; });
  broken([&](Images& images) { images.row_stride = 5; });
  broken([&](Images& images) { images.column_stride = -1; });
}

void check_units() {
  const Images x{};
  for (int64_t colors : {0L, 1L, 2L, 3L, 4L, 1000L, 1023L, 1024L, 1L << 40}) {
    const double units = units_in_one(colors);
    CHECK(std::log2(units) == std::floor(std::log2(units)) && units >= 1);
    CHECK(units * static_cast<double>(colors) < 0x1p62 && (colors == 0 || units * 2 * colors >= 0x1p62));
  }
}

int main() {
  for (int64_t count : {0L, 1L, 3L, 64L, 128L, 10000L})
    for (int64_t height : {0L, 1L, 5L, 32L, 91L, 256L, 4096L, 1L << 17})
      for (int64_t width : {1L, 31L, 32L, 64L, 256L, 100000L}) {
        check_work({nullptr, Pixel::uint8, count, height, width, 3 * height * width, height * width, width, 1});
      }
  check_layouts();
  check_units();
  std::printf("%d %d %d\n", kinds[0], kinds[1], kinds[2]);
}
"""


@needs_compiler
def test_plans_cover_every_pixel_and_vectors_are_aligned(tmp_path: Path) -> None:
    counts = counts_of(PROGRAM, tmp_path)
    assert all(counts), f"a kind of set is never used: {counts}"
