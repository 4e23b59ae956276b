// How the CUDA kernels of the histogram operators read pixels. Free of torch.
#pragma once

#include <cfloat>

#include "cuda_common.cuh"
#include "histogram_cuda.h"
#include "histogram_cuda_plan.h"

namespace m2o_fast {
namespace {

// What a stored pixel is compared and multiplied as.
template <typename Stored>
using Value = std::conditional_t<std::is_same_v<Stored, uint8_t>, uint32_t, Arithmetic<Stored>>;

template <typename Stored>
__device__ __forceinline__ Value<Stored> value_of(Stored stored) {
  if constexpr (std::is_same_v<Stored, uint8_t>) {
    return stored;
  } else {
    return widen(stored);
  }
}

__device__ __forceinline__ bool is_finite(double value) { return fabs(value) <= DBL_MAX; }

// 16 bytes of pixels.
template <typename Stored>
struct Vector {
  static constexpr int kCount = 16 / sizeof(Stored);
  Stored stored[kCount];

  __device__ __forceinline__ explicit Vector(const Stored* from) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(stored, &bits, sizeof(bits));
  }
  __device__ __forceinline__ Value<Stored> operator[](int i) const { return value_of(stored[i]); }
};

template <typename Stored>
__device__ __forceinline__ const Stored* start_of(const Images& images, int64_t image) {
  return static_cast<const Stored*>(images.data) + image * images.image_stride;
}

// Where pixel i of an image is, in elements from the image's start.
__device__ __forceinline__ int64_t offset_of(const Images& images, bool one_run, const Divisor& by_width, int64_t i) {
  if (one_run) {
    return i * images.column_stride;
  }
  const auto [row, column] = by_width.divide(i);
  return row * images.row_stride + column * images.column_stride;
}

// Calls visit(red, green, blue, content) for the pixels begin <= i < end of an image, divided among `threads` threads;
// without content its argument is 0. For vectors, begin is a multiple of 16 pixels.
template <typename Stored, PixelLayout kLayout, typename Visit>
__device__ __forceinline__ void for_pixels(const Images& images, const Images* content, const Divisor& by_width,
                                           int64_t image, int64_t begin, int64_t end, int thread, int threads,
                                           const Visit& visit) {
  const Stored* red = start_of<Stored>(images, image);
  const Stored* weight = content ? start_of<Stored>(*content, image) : nullptr;
  if constexpr (kLayout == PixelLayout::kStrided) {
    const bool one_run = rows_follow_each_other(images), weight_run = !content || rows_follow_each_other(*content);
    for (int64_t i = begin + thread; i < end; i += threads) {
      const Stored* pixel = red + offset_of(images, one_run, by_width, i);
      const auto channel = [&](int k) { return value_of(pixel[k * images.channel_stride]); };
      const auto w = weight ? value_of(weight[offset_of(*content, weight_run, by_width, i)]) : Value<Stored>{};
      visit(channel(0), channel(1), channel(2), w);
    }
  } else {
    constexpr int kCount = Vector<Stored>::kCount;
    for (int64_t i = begin + int64_t{thread} * kCount; i < end; i += int64_t{threads} * kCount) {
      constexpr bool kPlanar = kLayout == PixelLayout::kPlanar;
      const Stored* from = red + (kPlanar ? i : 3 * i);
      const int64_t step = kPlanar ? images.channel_stride : kCount;
      const Vector<Stored> three[3] = {Vector<Stored>(from), Vector<Stored>(from + step),
                                       Vector<Stored>(from + 2 * step)};
      const Vector<Stored> weights(weight ? weight + i : from);
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
        const auto channel = [&](int k) {
          const int at = 3 * v + k;  // interleaved
          return kPlanar ? three[k][v] : three[at / kCount][at % kCount];
        };
        visit(channel(0), channel(1), channel(2), weight ? weights[v] : Value<Stored>{});
      }
    }
  }
}

// Calls use(Stored{}) with the type of the pixels.
template <typename Use>
void with_stored(Pixel pixel, const Use& use) {
  switch (pixel) {
    case Pixel::uint8:
      return use(uint8_t{});
    case Pixel::float16:
      return use(__half{});
    case Pixel::bfloat16:
      return use(__nv_bfloat16{});
    case Pixel::float32:
      return use(float{});
    case Pixel::float64:
      return use(double{});
  }
}

template <PixelLayout kLayout>
using LayoutConstant = std::integral_constant<PixelLayout, kLayout>;

// Calls use(Stored{}, LayoutConstant<...>{}).
template <typename Use>
void with_stored_and_layout(const Images& images, const Images* content, const Use& use) {
  with_stored(images.pixel, [&](auto stored) {
    switch (layout_of(images, content)) {
      case PixelLayout::kPlanar:
        return use(stored, LayoutConstant<PixelLayout::kPlanar>{});
      case PixelLayout::kInterleaved:
        return use(stored, LayoutConstant<PixelLayout::kInterleaved>{});
      case PixelLayout::kStrided:
        return use(stored, LayoutConstant<PixelLayout::kStrided>{});
    }
  });
}

// The number of blocks for so many pieces of work; blocks take a further piece where there are more.
inline unsigned grid_for(int64_t pieces, int64_t most = int64_t{1} << 20) {
  return static_cast<unsigned>(std::clamp<int64_t>(pieces, 1, most));
}

}  // namespace
}  // namespace m2o_fast
