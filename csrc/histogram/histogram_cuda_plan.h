// How the work of the histogram operators is divided among the blocks of a GPU: host code without CUDA, so it can be
// read and tested alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common.h"
#include "divisor.h"
#include "histogram.h"

namespace m2o_fast {

// How the pixels of an image lie in memory.
enum class PixelLayout {
  kPlanar,       // one after the other, in planes that can be read by 16 bytes
  kInterleaved,  // red, green, blue, red, ...: an image in one piece that can be read by 16 bytes
  kStrided,      // any other way
};

constexpr int64_t pixel_bytes(Pixel pixel) {
  return pixel == Pixel::uint8 ? 1 : pixel == Pixel::float32 ? 4 : pixel == Pixel::float64 ? 8 : 2;
}

// Whether every image, from each of its planes on, starts on 16 bytes and holds a whole number of them.
inline bool reads_by_16_bytes(const Images& images, bool planes) {
  const int64_t vector = 16 / pixel_bytes(images.pixel);
  return reinterpret_cast<uintptr_t>(images.data) % 16 == 0 && images.height * images.width % vector == 0 &&
         (images.count == 1 || images.image_stride % vector == 0) && (!planes || images.channel_stride % vector == 0);
}

inline PixelLayout layout_of(const Images& images, const Images* content) {
  if (!rows_follow_each_other(images)) {
    return PixelLayout::kStrided;
  }
  const bool content_fits = content == nullptr || (content->column_stride == 1 && rows_follow_each_other(*content) &&
                                                   reads_by_16_bytes(*content, false));
  if (images.column_stride == 1 && content_fits && reads_by_16_bytes(images, true)) {
    return PixelLayout::kPlanar;
  }
  if (images.column_stride == 3 && images.channel_stride == 1 && content_fits && reads_by_16_bytes(images, false)) {
    return PixelLayout::kInterleaved;
  }
  return PixelLayout::kStrided;
}

// Foreground colour: a warp adds up one part of one image.
struct FitPlan {
  int64_t parts;  // of an image; with several, their sums wait in a workspace
  int64_t part_pixels;
  Divisor by_parts;
};

inline FitPlan plan_fit(const Images& images) {
  constexpr int64_t kSmallest = 512, kLargest = 4096, kEnoughWarps = 4096, kMostParts = 1024;
  const int64_t pixels = images.height * images.width;
  const int64_t wanted = ceil_div(pixels * images.count, kEnoughWarps);
  const int64_t part = std::max(std::clamp(wanted, kSmallest, kLargest), ceil_div(pixels, kMostParts));
  const int64_t part_pixels = ceil_div(part, kSmallest) * kSmallest;
  const int64_t parts = std::max<int64_t>(1, ceil_div(pixels, part_pixels));
  return {parts, part_pixels, Divisor(parts)};
}

// Distinct colours of an image: a set of codes that a block keeps in shared memory, or that several blocks keep in
// global memory.
enum class SetKind {
  kSharedBits,  // a bit for each possible code
  kSharedHash,  // a table of the codes that were met, at most half full
  kGlobalBits,
};

struct SetPlan {
  SetKind kind;
  int64_t words;           // of a set, 32 bits each
  int64_t images_at_once;  // kGlobalBits: as many as the workspace has sets for
  int64_t parts;           // of an image, one for each block
  int64_t part_pixels;
  Divisor by_parts;
};

constexpr int64_t kSharedWords = 8192;

inline SetPlan plan_sets(const Images& images, int64_t bits) {
  constexpr int64_t kWorkspaceWords = int64_t{1} << 24, kPartPixels = 8192, kMostParts = 1024, kManyImages = 128;
  const int64_t pixels = images.height * images.width, bit_words = std::max<int64_t>(1, (int64_t{1} << 3 * bits) / 32);
  SetPlan plan{SetKind::kGlobalBits, bit_words, images.count, 1, std::max<int64_t>(1, pixels), Divisor(1)};
  // One block for each image has to be enough blocks, or little work.
  const bool block_each = images.count >= kManyImages || pixels <= kPartPixels;
  if (block_each && bit_words <= kSharedWords) {
    plan.kind = SetKind::kSharedBits;
    return plan;
  }
  if (2 * pixels <= kSharedWords) {
    plan.kind = SetKind::kSharedHash;
    plan.words = 64;
    while (plan.words < 2 * pixels) {
      plan.words *= 2;
    }
    return plan;
  }
  plan.images_at_once = std::clamp<int64_t>(kWorkspaceWords / bit_words, 1, std::max<int64_t>(1, images.count));
  // A multiple of 16 pixels, as many as are read at a time.
  plan.part_pixels = ceil_div(std::max(kPartPixels, ceil_div(pixels, kMostParts)), 16) * 16;
  plan.parts = std::max<int64_t>(1, ceil_div(pixels, plan.part_pixels));
  plan.by_parts = Divisor(plan.parts);
  return plan;
}

}  // namespace m2o_fast
