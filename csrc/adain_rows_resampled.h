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

template <int64_t width, typename T, typename Count, typename Streamed>
M2O_INLINE void apply_tile_up2(const T* x, T* y, Square to, int64_t stride, Count count, const RowScratch<T>& of,
                               int64_t at, typename Simd<T>::Wide slope, Streamed streamed) {
  const Tile<T, width> center(&of.center[at]), scale(&of.scale[at]), shift(&of.shift[at]);
  typename Simd<T>::Vector results[width];
  M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
    const auto value = (load_lanes<T>(x + k * lanes<T>, count) - center.part[k]) * scale.part[k] + shift.part[k];
    results[k] = activate(value, slope);
  }
  // one place after the other: whole cache lines, else streams would be several times slower
  M2O_UNROLLED for (int64_t which = 0; which < 4; ++which) {
    M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
      put(y + to.place(which) * stride + k * lanes<T>, results[k], count, streamed);
    }
  }
}

template <int64_t width, typename T, typename Count, typename Streamed>
M2O_INLINE void apply_tile_down2(const T* x, T* y, Square from, int64_t stride, Count count, const RowScratch<T>& of,
                                 int64_t at, typename Simd<T>::Wide slope, Streamed streamed) {
  const Tile<T, width> center(&of.center[at]), scale(&of.scale[at]), shift(&of.shift[at]);
  typename Simd<T>::Vector left[width], right[width];
  const auto of_place = [&](int64_t which, int64_t k) M2O_INLINED {
    const auto number = load_lanes<T>(x + from.place(which) * stride + k * lanes<T>, count);
    return activate((number - center.part[k]) * scale.part[k] + shift.part[k], slope);
  };
  M2O_UNROLLED for (int64_t k = 0; k < width; ++k) { left[k] = of_place(0, k); }
  M2O_UNROLLED for (int64_t k = 0; k < width; ++k) { left[k] += of_place(2, k); }
  M2O_UNROLLED for (int64_t k = 0; k < width; ++k) { right[k] = of_place(1, k); }
  M2O_UNROLLED for (int64_t k = 0; k < width; ++k) {
    const auto sum = left[k] + (right[k] + of_place(3, k));
    put(y + k * lanes<T>, sum * typename Simd<T>::Wide(0.25), count, streamed);
  }
}

template <typename T>
struct ResampledRowWriter {
  static M2O_INLINE void write(const AdainProblem<T>& p, const T* x, ChannelRange range, const RowScratch<T>& of) {
    with_constant(p.resample == Resample::up2, [&](auto up) M2O_INLINED {
      with_constant(p.streamed, [&](auto streamed) M2O_INLINED { write_squares(p, x, range, of, up, streamed); });
    });
  }

 private:
  template <typename Up, typename Streamed>
  static M2O_INLINE void write_squares(const AdainProblem<T>& p, const T* x, ChannelRange range,
                                       const RowScratch<T>& of, Up, Streamed streamed) {
    constexpr bool up = Up::value;
    const int64_t height = up ? p.height : p.height / 2, width = up ? p.width : p.width / 2;
    T* y = p.out + range.sample * (up ? 4 * p.plane : p.plane / 4) * p.channels;
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        const Square square(row, column, width);
        const auto write_tile = [&](int64_t place, int64_t, int64_t channel, int64_t at, auto tile,
                                    auto count) M2O_INLINED {
          const int64_t offset = place * p.channels + channel;
          if constexpr (up) {
            apply_tile_up2<tile>(x + offset, y + channel, square, p.channels, count, of, at, p.slope, streamed);
          } else {
            apply_tile_down2<tile>(x + channel, y + offset, square, p.channels, count, of, at, p.slope, streamed);
          }
        };
        const int64_t place = row * width + column;
        for_tiles<T, FORWARD_TILE<T>>(place, place + 1, 1, range, write_tile);
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
      : stride(ceil_div(range.end - range.begin, lanes<T>) * lanes<T>), values(BACKWARD_ROW_BLOCK * stride) {}

  static M2O_INLINE int64_t block(const AdainProblem<T>&) { return BACKWARD_ROW_BLOCK; }

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
    for (; channel + lanes<T> <= range.end; channel += lanes<T>) {
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
