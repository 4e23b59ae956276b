// How the work of one residual call is divided among the threads of a GPU. Free of CUDA, so that a plain C++ compiler
// can test it.
#pragma once

#include <cstdint>

#include "common.h"
#include "divisor.h"
#include "residual_call.h"

namespace m2o_fast {

constexpr int kQuadThreads = 256;            // of a block
constexpr int64_t kMostBlocks = 2147483647;  // of a grid in its first dimension; a thread takes more turns beyond

// Blocks for so many items, each of them one turn of a thread.
constexpr int64_t quad_blocks(int64_t items) {
  const int64_t blocks = ceil_div(items, kQuadThreads);
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

// What a thread does at a time: some coarse numbers, and twice as many in each of two fine rows.
enum class QuadAccess : int32_t {
  runs,    // NCHW: 8 bytes of coarse numbers; their fine ones are runs of 16 bytes
  pixels,  // NHWC: 16 bytes of coarse numbers, all of one pixel; their fine ones are two pixels
  single,  // one coarse number: always possible
};

// The fastest one that the shape, and tensors that do (or do not) start on 16 bytes, permit.
constexpr QuadAccess quad_access(const QuadShape& shape, int64_t element_bytes, bool aligned) {
  if (!aligned || element_bytes == 8) {  // float64 is for checks, not for speed
    return QuadAccess::single;
  }
  if (shape.channels_last) {
    return shape.channels % (16 / element_bytes) == 0 ? QuadAccess::pixels : QuadAccess::single;
  }
  return shape.width % (8 / element_bytes) == 0 ? QuadAccess::runs : QuadAccess::single;
}

// Coarse numbers of a thread.
constexpr int quad_numbers(QuadAccess access, int element_bytes) {
  return access == QuadAccess::runs ? 8 / element_bytes : access == QuadAccess::pixels ? 16 / element_bytes : 1;
}

// Offsets of what a thread works on: `numbers` coarse ones, and in the upper of two fine rows as many at left and at
// right.
struct QuadSpot {
  int64_t coarse, left, right;
};

// Finds the row of a coarse number, and its pixel there.
struct QuadDivisors {
  explicit QuadDivisors(const QuadShape& shape) : by_row(shape.coarse_row()), by_pixel(shape.channels) {}
  Divisor by_row, by_pixel;
};

// The spot number `item` of rows * coarse_row / numbers.
template <QuadAccess access>
constexpr QuadSpot quad_spot(const QuadShape& shape, const QuadDivisors& divisors, int numbers, int64_t item) {
  const int64_t coarse = item * numbers;
  const auto [row, column] = divisors.by_row.divide(coarse);
  const int64_t fine = 2 * row * shape.fine_row();
  if (access == QuadAccess::runs) {
    return {coarse, fine + 2 * column, fine + 2 * column + numbers};
  }
  const int64_t pixel = divisors.by_pixel.quotient(column);  // of the coarse row; the fine one has two for it
  const int64_t left = fine + column + pixel * shape.channels;
  return {coarse, left, left + shape.channels};
}

}  // namespace m2o_fast
