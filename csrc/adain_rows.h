// The adain kernels for channels_last x, [N, plane, C]: a row of C numbers per pixel. One thread does a range of
// channels of one image: blocks of rows, and in each of them tiles of channels, whose sums stay in registers.
#pragma once

#include <algorithm>
#include <vector>

#include "adain_cpu.h"

namespace m2o_fast {

constexpr int64_t ROW_BLOCK = 64;  // rows
// Vectors per tile: as many as leave all that is kept per channel in 16 registers.
constexpr int64_t FORWARD_TILE = 4;
constexpr int64_t BACKWARD_TILE = 2;
constexpr int64_t TILED_CHANNELS = 32;  // a whole number of tiles for every storage type

// Per channel of a range: what is known of it between the passes. Filled up to a whole number of tiles.
template <typename T>
struct RowScratch {
  using Wide = typename Simd<T>::Wide;
  std::vector<double> mean, squares;  // forward: the moments so far
  std::vector<double> sum, products;  // backward: the sums so far
  std::vector<Wide> center, scale, shift, from_beta, from_gamma;

  explicit RowScratch(int64_t channels) {
    const int64_t size = ceil_div(channels, TILED_CHANNELS) * TILED_CHANNELS;
    for (auto* values : {&mean, &squares, &sum, &products}) {
      values->resize(size);
    }
    for (auto* values : {&center, &scale, &shift, &from_beta, &from_gamma}) {
      values->resize(size);
    }
  }
};

// Channels [begin, end) of one image.
struct ChannelRange {
  int64_t sample, begin, end;
};

// body(channel, offset in the range, width, count) for every tile of `width` vectors; the last vectors come one by one.
template <typename T, int64_t TILE, typename Body>
M2O_INLINE void for_tiles(ChannelRange range, const Body& body) {
  int64_t channel = range.begin;
  for (; channel + TILE * lanes<T> <= range.end; channel += TILE * lanes<T>) {
    body(channel, channel - range.begin, std::integral_constant<int64_t, TILE>{}, AllLanes<T>{});
  }
  for (; channel + lanes<T> <= range.end; channel += lanes<T>) {
    body(channel, channel - range.begin, std::integral_constant<int64_t, 1>{}, AllLanes<T>{});
  }
  if (channel < range.end) {
    body(channel, channel - range.begin, std::integral_constant<int64_t, 1>{}, range.end - channel);
  }
}

template <typename T, int64_t width>
struct Tile {
  using Wide = typename Simd<T>::Wide;
  typename Simd<T>::Vector part[width] = {};

  Tile() = default;
  M2O_INLINE explicit Tile(const Wide* from) { std::memcpy(part, from, sizeof(part)); }
};

// Adds `rows` rows of a tile to the moments of its channels. `before` rows were added already.
template <typename T, int64_t width, typename Count>
M2O_INLINE void add_tile(const T* x, int64_t stride, int64_t rows, double before, Count count, double* mean,
                         double* squares) {
  using Wide = typename Simd<T>::Wide;
  constexpr int64_t size = width * lanes<T>;
  Tile<T, width> guess;
  if (before == 0) {
    for (int64_t row = 0; row < rows; ++row) {
      M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
        guess.part[k] += load_lanes<T>(x + row * stride + k * lanes<T>, count);
      }
    }
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      guess.part[k] *= static_cast<Wide>(1) / static_cast<Wide>(rows);
    }
  } else {
    Wide rounded[size];
    for (int64_t at = 0; at < size; ++at) {
      rounded[at] = static_cast<Wide>(mean[at]);
    }
    guess = Tile<T, width>(rounded);
  }
  Tile<T, width> sum, sum_of_squares;
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      const auto difference = load_lanes<T>(x + row * stride + k * lanes<T>, count) - guess.part[k];
      sum.part[k] += difference;
      sum_of_squares.part[k] += difference * difference;
    }
  }
  Wide guesses[size], sums[size], sums_of_squares[size];
  std::memcpy(guesses, guess.part, sizeof(guesses));
  std::memcpy(sums, sum.part, sizeof(sums));
  std::memcpy(sums_of_squares, sum_of_squares.part, sizeof(sums_of_squares));
  for (int64_t at = 0; at < size; ++at) {
    Moments moments{before, mean[at], squares[at]};
    moments.add(static_cast<double>(rows), guesses[at], sums[at], sums_of_squares[at]);
    mean[at] = moments.mean;
    squares[at] = moments.squares;
  }
}

template <typename T, int64_t width, typename Count, typename Streamed>
M2O_INLINE void apply_tile(const T* x, T* y, int64_t stride, int64_t rows, Count count, const RowScratch<T>& of,
                           int64_t at, typename Simd<T>::Wide slope, Streamed streamed) {
  const Tile<T, width> center(&of.center[at]), scale(&of.scale[at]), shift(&of.shift[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      const int64_t offset = row * stride + k * lanes<T>;
      const auto value = (load_lanes<T>(x + offset, count) - center.part[k]) * scale.part[k] + shift.part[k];
      put(y + offset, activate(value, slope), count, streamed);
    }
  }
}

template <typename T>
M2O_INLINE void forward_rows(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  const T* x = p.x + range.sample * p.plane * p.channels;
  T* y = p.out + range.sample * p.plane * p.channels;
  std::fill(scratch.mean.begin(), scratch.mean.end(), 0);
  std::fill(scratch.squares.begin(), scratch.squares.end(), 0);
  for (int64_t row = 0; row < p.plane; row += ROW_BLOCK) {
    for_tiles<T, FORWARD_TILE>(range, [&](int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
      add_tile<T, width>(x + row * p.channels + channel, p.channels, std::min(ROW_BLOCK, p.plane - row),
                         static_cast<double>(row), count, &scratch.mean[at], &scratch.squares[at]);
    });
  }
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    const int64_t at = channel - range.begin;
    const Moments moments{static_cast<double>(p.plane), scratch.mean[at], scratch.squares[at]};
    const auto c = finish_statistics(p, range.sample, channel, moments);
    scratch.center[at] = c.mean;
    scratch.scale[at] = c.scale;
    scratch.shift[at] = c.shift;
  }
  with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
    for (int64_t row = 0; row < p.plane; row += ROW_BLOCK) {
      for_tiles<T, FORWARD_TILE>(range, [&](int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
        const int64_t offset = row * p.channels + channel;
        apply_tile<T, width>(x + offset, y + offset, p.channels, std::min(ROW_BLOCK, p.plane - row), count, scratch, at,
                             p.slope, streamed);
      });
    }
  });
  finish_streams();
}

// Adds `rows` rows of a tile to the sums of the gradient g behind the activation and of g * (x - mean).
template <typename T, int64_t width, typename Count>
M2O_INLINE void add_gradient_tile(const T* grad, const T* x, int64_t stride, int64_t rows, Count count,
                                  RowScratch<T>& of, int64_t at, typename Simd<T>::Wide slope) {
  const Tile<T, width> center(&of.center[at]), scale(&of.scale[at]), shift(&of.shift[at]);
  Tile<T, width> sum, products;
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      const int64_t offset = row * stride + k * lanes<T>;
      const auto difference = load_lanes<T>(x + offset, count) - center.part[k];
      const auto value = difference * scale.part[k] + shift.part[k];
      const auto g = activate_gradient(load_lanes<T>(grad + offset, count), value, slope);
      sum.part[k] += g;
      products.part[k] += g * difference;
    }
  }
  typename Simd<T>::Wide sums[width * lanes<T>], sums_of_products[width * lanes<T>];
  std::memcpy(sums, sum.part, sizeof(sums));
  std::memcpy(sums_of_products, products.part, sizeof(sums_of_products));
  for (int64_t lane = 0; lane < width * lanes<T>; ++lane) {
    of.sum[at + lane] += sums[lane];
    of.products[at + lane] += sums_of_products[lane];
  }
}

template <typename T, int64_t width, typename Count, typename Streamed>
M2O_INLINE void apply_gradient_tile(const T* grad, const T* x, T* out, int64_t stride, int64_t rows, Count count,
                                    const RowScratch<T>& of, int64_t at, typename Simd<T>::Wide slope,
                                    Streamed streamed) {
  const Tile<T, width> center(&of.center[at]), scale(&of.scale[at]), shift(&of.shift[at]);
  const Tile<T, width> from_beta(&of.from_beta[at]), from_gamma(&of.from_gamma[at]);
  for (int64_t row = 0; row < rows; ++row) {
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      const int64_t offset = row * stride + k * lanes<T>;
      const auto difference = load_lanes<T>(x + offset, count) - center.part[k];
      const auto value = difference * scale.part[k] + shift.part[k];
      const auto g = activate_gradient(load_lanes<T>(grad + offset, count), value, slope);
      put(out + offset, g * scale.part[k] - from_beta.part[k] - difference * from_gamma.part[k], count, streamed);
    }
  }
}

template <typename T>
M2O_INLINE void backward_rows(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  const int64_t image = range.sample * p.plane * p.channels;
  const T* x = p.x + image;
  const T* grad = p.grad + image;
  T* out = p.out + image;
  std::fill(scratch.sum.begin(), scratch.sum.end(), 0);
  std::fill(scratch.products.begin(), scratch.products.end(), 0);
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    const int64_t at = channel - range.begin;
    const auto c = saved_coefficients(p, range.sample, channel);
    scratch.center[at] = c.mean;
    scratch.scale[at] = c.scale;
    scratch.shift[at] = c.shift;
  }
  for (int64_t row = 0; row < p.plane; row += ROW_BLOCK) {
    for_tiles<T, BACKWARD_TILE>(range, [&](int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
      const int64_t offset = row * p.channels + channel;
      add_gradient_tile<T, width>(grad + offset, x + offset, p.channels, std::min(ROW_BLOCK, p.plane - row), count,
                                  scratch, at, p.slope);
    });
  }
  for (int64_t channel = range.begin; channel < range.end; ++channel) {
    const int64_t at = channel - range.begin;
    const auto from = finish_gradients(p, range.sample, channel, scratch.sum[at], scratch.products[at]);
    scratch.from_beta[at] = from.from_beta;
    scratch.from_gamma[at] = from.from_gamma;
  }
  with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
    for (int64_t row = 0; row < p.plane; row += ROW_BLOCK) {
      for_tiles<T, BACKWARD_TILE>(range, [&](int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
        const int64_t offset = row * p.channels + channel;
        apply_gradient_tile<T, width>(grad + offset, x + offset, out + offset, p.channels,
                                      std::min(ROW_BLOCK, p.plane - row), count, scratch, at, p.slope, streamed);
      });
    }
  });
  finish_streams();
}

}  // namespace m2o_fast
