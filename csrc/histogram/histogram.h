// Foreground colours, joint colour histograms and counts of distinct colours on the CPU.
//
// The definitions are the references in m2o_fast/ops/histogram.py; these functions give the same numbers. They know
// neither tensors nor arrays, so the torch operators and the numpy entry points share them.
#pragma once

#include <cstdint>

namespace m2o_fast {

enum class Pixel { uint8, float16, bfloat16, float32, float64 };

// `count` images of one or three planes in any memory layout. Strides count elements and may be 0 or negative.
struct Images {
  const void* data;
  Pixel pixel;
  int64_t count, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;
};

// Whether all pixels of an image are evenly spaced.
constexpr bool rows_follow_each_other(const Images& images) {
  return images.height == 1 || images.row_stride == images.width * images.column_stride;
}

// colors: [count, 3], float64 if the pixels are float64 and else float32. content: one plane per image, of the same
// pixel type and size, or nullptr for the maximum over the channels.
void foreground_color(const Images& images, const Images* content, void* colors);

// counts: [groups, bins^3], holding 0 at the call. colors: one image of 1 x N pixels, not uint8. group: N group numbers
// `group_stride` elements apart, or nullptr if everything belongs to group 0.
// Throws std::invalid_argument, in the name of `op`, for a non-finite colour and for a group number that is none of
// 0..groups - 1.
void color_histogram(const char* op, const Images& colors, int64_t bins, const int64_t* group, int64_t group_stride,
                     int64_t groups, int64_t* counts);

// counts: [count], the number of distinct colours in each image at `bits` <= 8 bits per channel.
// Throws std::invalid_argument, in the name of `op`, for a non-finite pixel.
void unique_color_count(const char* op, const Images& images, int64_t bits, int64_t* counts);

}  // namespace m2o_fast
