// The adain kernels for channels_last x, [N, plane, C]: a row of C numbers per pixel. One thread does a range of
// channels of one image, a few rows at a time: so memory is read in its order, and sums stay in registers for a few
// rows, then in the first-level cache.
#pragma once

#include <algorithm>
#include <vector>

#include "adain_cpu.h"

namespace m2o_fast {

// Rows that are summed in the type of the sums before they go into double.
constexpr int64_t kRowBlock = 64;
// Rows that are worked on side by side, so that coefficients and sums serve several.
constexpr int64_t kRowGroup = 8;
constexpr int64_t kBackwardRowGroup = 4;
// Vectors per tile: so many that all that is kept per channel fits 16 registers.
template <typename T>
inline constexpr int64_t kForwardTile = 4 / kRegisters<T>;
template <typename T>
inline constexpr int64_t kBackwardTile = 2 / kRegisters<T>;

// Per channel of a range, filled up to a whole number of tiles.
template <typename T>
struct RowScratch {
  using Wide = typename Simd<T>::Wide;
  std::vector<Wide> center, scale, shift;       // Coefficients; while moments are taken, center is the guess
  std::vector<Wide> from_beta, from_gamma;      // GradientCoefficients
  std::vector<Wide> block_first, block_second;  // sums over the block at hand
  std::vector<double> first, second;            // forward: mean, squares; backward: sum, sum of products

  explicit RowScratch(int64_t channels) {
    const int64_t size = ceil_div(channels, kTiledChannels) * kTiledChannels;
    for (auto* values : {&center, &scale, &shift, &from_beta, &from_gamma, &block_first, &block_second}) {
      values->resize(size);
    }
    first.resize(size);
    second.resize(size);
  }

  template <typename Coefficient>
  M2O_INLINE void set(int64_t at, const Coefficient& c) {
    center[at] = c.mean;
    scale[at] = c.scale;
    shift[at] = c.shift;
  }
};

// The vectors of one tile.
template <typename T, int64_t kWidth>
struct Tile {
  using Wide = typename Simd<T>::Wide;
  typename Simd<T>::Vector part[kWidth] = {};

  M2O_INLINE explicit Tile(const Wide* from) {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) { part[k] = Simd<T>::load_wide(from + k * kLanes<T>); }
  }
  M2O_INLINE void store_to(Wide* to) const {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) { Simd<T>::store_wide(to + k * kLanes<T>, part[k]); }
  }
};

// body(row, rows, channel, offset in the range, width, count): a group of rows and a tile of `width` vectors after the
// other; the last vectors of a range come one by one.
template <typename T, int64_t kTile, typename Body>
M2O_INLINE void for_tiles(int64_t begin, int64_t end, int64_t group, ChannelRange range, const Body& body) {
  for (int64_t row = begin; row < end; row += group) {
    const int64_t rows = std::min(group, end - row);
    int64_t channel = range.begin;
    for (; channel + kTile * kLanes<T> <= range.end; channel += kTile * kLanes<T>) {
      body(row, rows, channel, channel - range.begin, std::integral_constant<int64_t, kTile>{}, AllLanes<T>{});
    }
    for (; channel + kLanes<T> <= range.end; channel += kLanes<T>) {
      body(row, rows, channel, channel - range.begin, std::integral_constant<int64_t, 1>{}, AllLanes<T>{});
    }
    if (channel < range.end) {
      body(row, rows, channel, channel - range.begin, std::integral_constant<int64_t, 1>{}, range.end - channel);
    }
  }
}

// While a tile of a group of rows is worked on, asks for its share of the group after the next, in the order of memory.
// Read tile by tile, a few rows wide, memory would come much later: that order is not what processors fetch ahead.
template <typename T>
M2O_INLINE void fetch_ahead(const T* x, int64_t channels, ChannelRange range, int64_t group, int64_t row, int64_t rows,
                            int64_t at, int64_t width) {
  if (range.end - range.begin < channels) {
    return;  // pieces of rows, far from each other
  }
  const auto* from = reinterpret_cast<const char*>(x + (row + 2 * group) * channels + at * rows);
  for (int64_t line = 0; line < rows * width * 32; line += 64) {
    __builtin_prefetch(from + line);
  }
}

// Adds rows of a tile, as differences from the guess, to the sums of the block.
template <int64_t kWidth, typename T, typename Count>
M2O_INLINE void add_tile(const T* x, int64_t stride, int64_t rows, Count count, RowScratch<T>& scratch, int64_t at) {
  const Tile<T, kWidth> guess(&scratch.center[at]);
  Tile<T, kWidth> sum(&scratch.block_first[at]), squares(&scratch.block_second[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) {
      const auto difference = load_lanes<T>(x + row * stride + k * kLanes<T>, count) - guess.part[k];
      sum.part[k] += difference;
      squares.part[k] += difference * difference;
    }
  }
  sum.store_to(&scratch.block_first[at]);
  squares.store_to(&scratch.block_second[at]);
}

template <typename T>
M2O_INLINE void add_block(const AdainProblem<T>& p, const T* x, int64_t begin, int64_t end, ChannelRange range,
                          RowScratch<T>& scratch) {
  std::fill(scratch.block_first.begin(), scratch.block_first.end(), 0);
  std::fill(scratch.block_second.begin(), scratch.block_second.end(), 0);
  for_tiles<T, kForwardTile<T>>(
      begin, end, kRowGroup, range,
      [&](int64_t row, int64_t rows, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
        fetch_ahead(x, p.channels, range, kRowGroup, row, rows, at, width);
        add_tile<width>(x + row * p.channels + channel, p.channels, rows, count, scratch, at);
      });
}

// Leaves mean and squares of every channel in scratch.first and scratch.second.
template <typename T>
M2O_INLINE void row_moments(const AdainProblem<T>& p, const T* x, ChannelRange range, RowScratch<T>& scratch) {
  using Wide = typename Simd<T>::Wide;
  const int64_t channels = range.end - range.begin;
  std::fill(scratch.first.begin(), scratch.first.end(), 0);
  std::fill(scratch.second.begin(), scratch.second.end(), 0);
  std::fill(scratch.center.begin(), scratch.center.end(), 0);
  const int64_t first_rows = std::min(kRowBlock, p.plane);
  add_block(p, x, 0, first_rows, range, scratch);
  for (int64_t at = 0; at < channels; ++at) {
    scratch.center[at] = scratch.block_first[at] / static_cast<Wide>(first_rows);
  }
  for (int64_t row = 0; row < p.plane; row += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, p.plane - row);
    add_block(p, x, row, row + rows, range, scratch);
    for (int64_t at = 0; at < channels; ++at) {
      Moments moments{static_cast<double>(row), scratch.first[at], scratch.second[at]};
      moments.add(static_cast<double>(rows), scratch.center[at], scratch.block_first[at], scratch.block_second[at]);
      scratch.first[at] = moments.mean;
      scratch.second[at] = moments.squares;
      scratch.center[at] = static_cast<Wide>(moments.mean);
    }
  }
}

template <int64_t kWidth, typename T, typename Count, typename Streamed>
M2O_INLINE void apply_tile(const T* x, T* y, int64_t stride, int64_t rows, Count count, const RowScratch<T>& scratch,
                           int64_t at, typename Simd<T>::Wide slope, Streamed streamed) {
  const Tile<T, kWidth> center(&scratch.center[at]), scale(&scratch.scale[at]), shift(&scratch.shift[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) {
      const int64_t offset = row * stride + k * kLanes<T>;
      const auto value = (load_lanes<T>(x + offset, count) - center.part[k]) * scale.part[k] + shift.part[k];
      put(y + offset, activate(value, slope), count, streamed);
    }
  }
}

// Writes images of y that are as large as those of x. Writers for the others are in adain_rows_resampled.h.
template <typename T>
struct RowWriter {
  static M2O_INLINE void write(const AdainProblem<T>& p, const T* x, ChannelRange range, const RowScratch<T>& scratch) {
    T* y = p.out + range.sample * p.plane * p.channels;
    with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
      for_tiles<T, kForwardTile<T>>(
          0, p.plane, kRowGroup, range,
          [&](int64_t row, int64_t rows, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
            const int64_t offset = row * p.channels + channel;
            fetch_ahead(x, p.channels, range, kRowGroup, row, rows, at, width);
            apply_tile<width>(x + offset, y + offset, p.channels, rows, count, scratch, at, p.slope, streamed);
          });
    });
  }
};

template <typename Writer, typename T>
M2O_INLINE void forward_rows(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  const T* x = p.x + range.sample * p.plane * p.channels;
  row_moments(p, x, range, scratch);
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    const int64_t at = channel - range.begin;
    scratch.set(at, finish_statistics(p, range.sample, channel,
                                      Moments{static_cast<double>(p.plane), scratch.first[at], scratch.second[at]}));
  }
  Writer::write(p, x, range, scratch);
  finish_streams();
}

// Gradients of rows in the range, `stride` numbers from row to row.
template <typename From>
struct GradientRows {
  const From* data;
  int64_t stride;
};

// The gradients of images of y as large as those of x: here, they are so.
template <typename T>
struct RowGradient {
  M2O_INLINE RowGradient(const AdainProblem<T>&, ChannelRange) {}

  // How many rows at() gives at a time.
  static M2O_INLINE int64_t block(const AdainProblem<T>& p) { return std::max<int64_t>(1, p.plane); }

  // Rows [begin, end).
  M2O_INLINE GradientRows<T> at(const AdainProblem<T>& p, ChannelRange range, int64_t begin, int64_t) {
    return {p.grad + (range.sample * p.plane + begin) * p.channels + range.begin, p.channels};
  }

  M2O_INLINE void fetch(const AdainProblem<T>& p, ChannelRange range, int64_t row, int64_t rows, int64_t at,
                        int64_t width) {
    const T* grad = p.grad + range.sample * p.plane * p.channels;
    fetch_ahead(grad, p.channels, range, kBackwardRowGroup, row, rows, at, width);
  }
};

// Adds rows of a tile to the sums of the gradient g behind the activation and of g * (x - mean).
template <int64_t kWidth, typename From, typename T, typename Count>
M2O_INLINE void add_gradient_tile(const From* grad, int64_t grad_stride, const T* x, int64_t stride, int64_t rows,
                                  Count count, RowScratch<T>& scratch, int64_t at, typename Simd<T>::Wide slope) {
  const Tile<T, kWidth> center(&scratch.center[at]), scale(&scratch.scale[at]), shift(&scratch.shift[at]);
  Tile<T, kWidth> sum(&scratch.block_first[at]), products(&scratch.block_second[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) {
      const auto difference = load_lanes<T>(x + row * stride + k * kLanes<T>, count) - center.part[k];
      const auto value = difference * scale.part[k] + shift.part[k];
      const auto outer = load_gradient<T>(grad + row * grad_stride + k * kLanes<T>, count);
      const auto g = activate_gradient(outer, value, slope);
      sum.part[k] += g;
      products.part[k] += g * difference;
    }
  }
  sum.store_to(&scratch.block_first[at]);
  products.store_to(&scratch.block_second[at]);
}

// Leaves both sums of every channel in of.first and of.second.
template <typename Gradient, typename T>
M2O_INLINE void row_gradient_sums(const AdainProblem<T>& p, Gradient& gradient, const T* x, ChannelRange range,
                                  RowScratch<T>& scratch) {
  std::fill(scratch.first.begin(), scratch.first.end(), 0);
  std::fill(scratch.second.begin(), scratch.second.end(), 0);
  for (int64_t begin = 0; begin < p.plane; begin += kBackwardRowBlock) {
    std::fill(scratch.block_first.begin(), scratch.block_first.end(), 0);
    std::fill(scratch.block_second.begin(), scratch.block_second.end(), 0);
    const int64_t end = std::min(begin + kBackwardRowBlock, p.plane);
    const auto grad = gradient.at(p, range, begin, end);
    for_tiles<T, kBackwardTile<T>>(
        begin, end, kBackwardRowGroup, range,
        [&](int64_t row, int64_t rows, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
          fetch_ahead(x, p.channels, range, kBackwardRowGroup, row, rows, at, width);
          gradient.fetch(p, range, row, rows, at, width);
          add_gradient_tile<width>(grad.data + (row - begin) * grad.stride + at, grad.stride,
                                   x + row * p.channels + channel, p.channels, rows, count, scratch, at, p.slope);
        });
    for (int64_t at = 0; at < range.end - range.begin; ++at) {
      scratch.first[at] += scratch.block_first[at];
      scratch.second[at] += scratch.block_second[at];
    }
  }
}

template <int64_t kWidth, typename From, typename T, typename Count, typename Streamed>
M2O_INLINE void apply_gradient_tile(const From* grad, int64_t grad_stride, const T* x, T* out, int64_t stride,
                                    int64_t rows, Count count, const RowScratch<T>& scratch, int64_t at,
                                    typename Simd<T>::Wide slope, Streamed streamed) {
  const Tile<T, kWidth> center(&scratch.center[at]), scale(&scratch.scale[at]), shift(&scratch.shift[at]);
  const Tile<T, kWidth> from_beta(&scratch.from_beta[at]), from_gamma(&scratch.from_gamma[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) {
      const int64_t offset = row * stride + k * kLanes<T>;
      const auto difference = load_lanes<T>(x + offset, count) - center.part[k];
      const auto value = difference * scale.part[k] + shift.part[k];
      const auto outer = load_gradient<T>(grad + row * grad_stride + k * kLanes<T>, count);
      const auto g = activate_gradient(outer, value, slope);
      put(out + offset, (g - from_beta.part[k] - difference * from_gamma.part[k]) * scale.part[k], count, streamed);
    }
  }
}

template <typename Gradient, typename T>
M2O_INLINE void backward_rows(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  const int64_t image = range.sample * p.plane * p.channels;
  const T* x = p.x + image;
  T* out = p.out + image;
  Gradient gradient(p, range);
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    scratch.set(channel - range.begin, saved_coefficients(p, range.sample, channel));
  }
  row_gradient_sums(p, gradient, x, range, scratch);
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    const int64_t at = channel - range.begin;
    const auto from = finish_gradients(p, range.sample, channel, scratch.first[at], scratch.second[at]);
    scratch.from_beta[at] = from.from_beta;
    scratch.from_gamma[at] = from.from_gamma;
  }
  with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
    for (int64_t begin = 0; begin < p.plane; begin += gradient.block(p)) {
      const int64_t end = std::min(begin + gradient.block(p), p.plane);
      const auto grad = gradient.at(p, range, begin, end);
      for_tiles<T, kBackwardTile<T>>(
          begin, end, kBackwardRowGroup, range,
          [&](int64_t row, int64_t rows, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
            fetch_ahead(x, p.channels, range, kBackwardRowGroup, row, rows, at, width);
            gradient.fetch(p, range, row, rows, at, width);
            const int64_t offset = row * p.channels + channel;
            apply_gradient_tile<width>(grad.data + (row - begin) * grad.stride + at, grad.stride, x + offset,
                                       out + offset, p.channels, rows, count, scratch, at, p.slope, streamed);
          });
    }
  });
  finish_streams();
}

}  // namespace m2o_fast
