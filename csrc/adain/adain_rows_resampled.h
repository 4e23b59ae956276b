// Images of y that are larger or smaller than those of x, and their gradients: [N, plane, C] on the CPU.
//
// The gradient of y is brought to the size of x a few rows at a time, in the type of the sums and in a buffer that
// stays in the first-level cache, once for each of the two passes. In planes P of x, "up2" so moves 11 P through memory
// where an image is larger than the caches. A pass of its own over the tensor would move 10 P in float32, but 13 P for
// 16-bit numbers, whose sums are float32; and where the images fit the caches it would move 8 P instead of 6 P.
#pragma once

#include <algorithm>
#include <vector>

#include "adain_rows.h"

namespace m2o_fast {

// The places, in an image `width` wide, of the square that belongs to one place of the smaller image.
struct Square {
  int64_t corner, width;
  M2O_INLINE Square(int64_t row, int64_t column, int64_t smaller_width)
      : corner(row * 4 * smaller_width + column * 2), width(2 * smaller_width) {}
  M2O_INLINE int64_t place(int64_t which) const { return corner + which / 2 * width + which % 2; }
};

template <int64_t kWidth, typename T, typename Count, typename Streamed>
M2O_INLINE void apply_tile_down2(const T* x, T* y, Square from, int64_t stride, Count count,
                                 const RowScratch<T>& scratch, int64_t at, typename Simd<T>::Wide slope,
                                 Streamed streamed) {
  const Tile<T, kWidth> center(&scratch.center[at]), scale(&scratch.scale[at]), shift(&scratch.shift[at]);
  typename Simd<T>::Vector left[kWidth], right[kWidth];
  const auto of_place = [&](int64_t which, int64_t k) M2O_INLINED {
    const auto number = load_lanes<T>(x + from.place(which) * stride + k * kLanes<T>, count);
    return activate((number - center.part[k]) * scale.part[k] + shift.part[k], slope);
  };
  M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) { left[k] = of_place(0, k); }
  M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) { left[k] += of_place(2, k); }
  M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) { right[k] = of_place(1, k); }
  M2O_UNROLLED for (int64_t k = 0; k < kWidth; ++k) {
    const auto sum = left[k] + (right[k] + of_place(3, k));
    put(y + k * kLanes<T>, sum * typename Simd<T>::Wide(0.25), count, streamed);
  }
}

template <typename T>
struct ResampledRowWriter {
  static M2O_INLINE void write(const AdainProblem<T>& p, const T* x, ChannelRange range, const RowScratch<T>& scratch) {
    with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
      if (p.resample == Resample::up2) {
        write_up2(p, x, range, scratch, streamed);
      } else {
        write_down2(p, x, range, scratch, streamed);
      }
    });
  }

 private:
  // A pixel is put together in the first-level cache and written to one place after the other: in whole runs, else
  // streams would be several times slower.
  template <typename Streamed>
  static M2O_INLINE void write_up2(const AdainProblem<T>& p, const T* x, ChannelRange range,
                                   const RowScratch<T>& scratch, Streamed streamed) {
    T* y = p.out + range.sample * 4 * p.plane * p.channels + range.begin;
    std::vector<T> pixel(range.end - range.begin);
    for_squares(p.height, p.width, [&](int64_t place, Square square) M2O_INLINED {
      for_tiles<T, kForwardTile<T>>(
          place, place + 1, 1, range,
          [&](int64_t, int64_t, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
            const T* from = x + place * p.channels + channel;
            apply_tile<width>(from, pixel.data() + at, 0, 1, count, scratch, at, p.slope, std::false_type{});
          });
      for (int64_t which = 0; which < 4; ++which) {
        put_row(y + square.place(which) * p.channels, pixel.data(), range.end - range.begin, streamed);
      }
    });
  }

  template <typename Streamed>
  static M2O_INLINE void write_down2(const AdainProblem<T>& p, const T* x, ChannelRange range,
                                     const RowScratch<T>& scratch, Streamed streamed) {
    T* y = p.out + range.sample * (p.plane / 4) * p.channels;
    for_squares(p.height / 2, p.width / 2, [&](int64_t place, Square square) M2O_INLINED {
      for_tiles<T, kForwardTile<T>>(
          place, place + 1, 1, range,
          [&](int64_t, int64_t, int64_t channel, int64_t at, auto width, auto count) M2O_INLINED {
            T* to = y + place * p.channels + channel;
            apply_tile_down2<width>(x + channel, to, square, p.channels, count, scratch, at, p.slope, streamed);
          });
    });
  }

  // body(place, square) for every place of the smaller image, `height` x `width`.
  template <typename Body>
  static M2O_INLINE void for_squares(int64_t height, int64_t width, const Body& body) {
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        body(row * width + column, Square(row, column, width));
      }
    }
  }
};

template <typename T>
struct ResampledRowGradient {
  using Wide = typename Simd<T>::Wide;
  int64_t stride;
  std::vector<Wide> values;

  M2O_INLINE ResampledRowGradient(const AdainProblem<T>&, ChannelRange range)
      : stride(ceil_div(range.end - range.begin, kLanes<T>) * kLanes<T>), values(kBackwardRowBlock * stride) {}

  static M2O_INLINE int64_t block(const AdainProblem<T>&) { return kBackwardRowBlock; }

  // Nothing: at() has read the gradient in the order of memory.
  static M2O_INLINE void fetch(const AdainProblem<T>&, ChannelRange, int64_t, int64_t, int64_t, int64_t) {}

  M2O_INLINE GradientRows<Wide> at(const AdainProblem<T>& p, ChannelRange range, int64_t begin, int64_t end) {
    const bool up = p.resample == Resample::up2;
    const T* grad = p.grad + range.sample * (up ? 4 * p.plane : p.plane / 4) * p.channels;
    for (int64_t row = begin; row < end; ++row) {
      Wide* to = values.data() + (row - begin) * stride;
      const int64_t image_row = row / p.width, column = row % p.width;
      if (up) {
        sum_square(grad, Square(image_row, column, p.width), p.channels, range, to);
      } else {
        const int64_t smaller = image_row / 2 * (p.width / 2) + column / 2;
        for_channels(range, [&](int64_t channel, int64_t at, auto count) M2O_INLINED {
          Simd<T>::store_wide(to + at, load_lanes<T>(grad + smaller * p.channels + channel, count) * Wide(0.25));
        });
      }
    }
    return {values.data(), stride};
  }

 private:
  template <typename Body>
  static M2O_INLINE void for_channels(ChannelRange range, const Body& body) {
    int64_t channel = range.begin;
    for (; channel + kLanes<T> <= range.end; channel += kLanes<T>) {
      body(channel, channel - range.begin, AllLanes<T>{});
    }
    if (channel < range.end) {
      body(channel, channel - range.begin, range.end - channel);
    }
  }

  static M2O_INLINE void sum_square(const T* grad, Square from, int64_t channels, ChannelRange range, Wide* to) {
    for_channels(range, [&](int64_t channel, int64_t at, auto count) M2O_INLINED {
      const auto of_place = [&](int64_t which) M2O_INLINED {
        return load_lanes<T>(grad + from.place(which) * channels + channel, count);
      };
      Simd<T>::store_wide(to + at, (of_place(0) + of_place(2)) + (of_place(1) + of_place(3)));
    });
  }
};

}  // namespace m2o_fast
