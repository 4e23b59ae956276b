// Winograd's convolution F(4x4, 3x3) and its derivative by the weight, a product of matrices per frequency.
#pragma once

#include "winograd_tiles.h"

namespace m2o_fast {

// A weight [out, in, 3, 3] by its strides. The derivative by the input is a convolution as well, from outputs to inputs
// with the kernel turned by 180 degrees: another view of the same weight.
template <typename T>
struct WeightView {
  int64_t out_channels, in_channels;
  const T* numbers;
  int64_t out_step, in_step, row_step, column_step;

  WeightView transposed() const {
    return {in_channels, out_channels, numbers + 2 * row_step + 2 * column_step, in_step, out_step,
            -row_step,   -column_step};
  }
  // The frequencies are [36, out / 16, in, 16], with a line between as in PanelShape.
  int64_t frequency() const { return out_channels * in_channels + kPanel; }
};

// One panel of output channels of the weight to frequencies.
template <typename T>
M2O_INLINE void weight_to_frequencies(const WeightView<T>& weight, int64_t panel, T* frequencies) {
  using Vector = typename Simd<T>::Vector;
  T* to = frequencies + panel * weight.in_channels * kPanel;
  for (int64_t in = 0; in < weight.in_channels; ++in, to += kPanel) {
    T taps[9 * kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const T* from = weight.numbers + (panel * kPanel + lane) * weight.out_step + in * weight.in_step;
      M2O_UNROLLED for (int64_t row = 0; row < 3; ++row) {
        M2O_UNROLLED for (int64_t column = 0; column < 3; ++column) {
          taps[(row * 3 + column) * kPanel + lane] = from[row * weight.row_step + column * weight.column_step];
        }
      }
    }
    for (int64_t lane = 0; lane < kPanel; lane += kLanes<T>) {
      map_square<KernelMap<T>, Vector>(
          [&](int row, int column) M2O_INLINED { return load(taps + (row * 3 + column) * kPanel + lane); },
          [&](int row, int column, Vector value)
              M2O_INLINED { store(to + (row * kInputTile + column) * weight.frequency() + lane, value); });
    }
  }
}

// One output channel's gradient [in, 3, 3] from its frequencies [36, in], which lie `step` apart.
template <typename T>
M2O_INLINE void weight_from_frequencies(const T* frequencies, int64_t step, int64_t in_channels, T* weight) {
  using Vector = typename Simd<T>::Vector;
  for (int64_t in = 0; in < in_channels; in += kLanes<T>) {
    Vector square[9];
    map_square<KernelAdjointMap<T>, Vector>(
        [&](int row, int column) M2O_INLINED { return load(frequencies + (row * kInputTile + column) * step + in); },
        [&](int row, int column, Vector value) M2O_INLINED { square[row * 3 + column] = value; });
    for (int64_t lane = 0; lane < kLanes<T>; ++lane, weight += 9) {
      M2O_UNROLLED for (int64_t tap = 0; tap < 9; ++tap) { weight[tap] = square[tap][lane]; }
    }
  }
}

// c [ROWS, 16] = the sum over runs and steps of a[run, step, row] * b[run, step, 16], added to what is there if `add`.
// Twelve registers of sums. The order is that of the steps, however often a sum is put down and taken up again.
template <typename T, int kRows, int kARow, int kAStep>
M2O_INLINE void multiply_small(const T* a, int64_t runs, int64_t run_step, int64_t steps, const T* b, bool add, T* c,
                               int64_t c_row) {
  using Vector = typename Simd<T>::Vector;
  for (int64_t half = 0; half < kPanel; half += 2 * kLanes<T>) {
    Vector sums[kRows][2];
    M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
      sums[row][0] = add ? load(c + row * c_row + half) : Vector{};
      sums[row][1] = add ? load(c + row * c_row + half + kLanes<T>) : Vector{};
    }
    const T* right = b + half;
    for (int64_t run = 0; run < runs; ++run) {
      const T* left = a + run * run_step;
      for (int64_t step = 0; step < steps; ++step, left += kAStep, right += kPanel) {
        const Vector first = load(right), second = load(right + kLanes<T>);
        M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
          const T factor = left[row * kARow];
          sums[row][0] += first * factor;
          sums[row][1] += second * factor;
        }
      }
    }
    M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
      store(c + row * c_row + half, sums[row][0]);
      store(c + row * c_row + half + kLanes<T>, sums[row][1]);
    }
  }
}

inline constexpr int kTileRows = 6, kChannelRows = 4;  // of multiply_small; kPanel is a multiple of the latter
// Panels of input channels of a product at a time: with 16 output channels they stay in the first-level cache.
inline constexpr int64_t kChannelBlock = 16;

template <typename T>
struct ConvolveProblem {
  TileShape input, output;
  const T *x, *kernel, *bias;  // the kernel in frequencies
  int64_t kernel_frequency;
  T* y;
};

// The tiles from begin to end, at most so many. Rows between the last tile and the next multiple of six hold
// whatever was in memory; what becomes of them is not used.
template <typename T>
M2O_INLINE void convolve_tiles(const ConvolveProblem<T>& p, int64_t begin, int64_t end, int64_t most, T* inputs,
                               T* products) {
  const PanelShape in{p.input.channels, most}, out{p.output.channels, most};
  for (int64_t panel = 0; panel < p.input.panels(); ++panel) {
    to_frequencies<InputMap>(p.input, p.x, panel, begin, end, in, inputs);
  }
  for (int64_t frequency = 0; frequency < kFrequencies; ++frequency) {
    for (int64_t block = 0; block < p.input.panels(); block += kChannelBlock) {
      const int64_t runs = std::min(kChannelBlock, p.input.panels() - block);
      for (int64_t panel = 0; panel < p.output.panels(); ++panel) {
        const T* kernel = p.kernel + frequency * p.kernel_frequency + (panel * in.channels + block * kPanel) * kPanel;
        const T* a = inputs + frequency * in.frequency() + block * in.panel();
        T* c = products + frequency * out.frequency() + panel * out.panel();
        for (int64_t tile = 0; tile < end - begin; tile += kTileRows) {
          multiply_small<T, kTileRows, kPanel, 1>(a + tile * kPanel, runs, in.panel(), kPanel, kernel, block > 0,
                                                  c + tile * kPanel, kPanel);
        }
      }
    }
  }
  for (int64_t panel = 0; panel < p.output.panels(); ++panel) {
    to_image(p.output, products, out, p.bias, panel, begin, end, p.y);
  }
}

// One panel of output channels at one frequency: sums [out, in] (+)= gradients [tiles, out] transposed times inputs
// [tiles, in].
template <typename T>
M2O_INLINE void multiply_gradients(const T* gradients, const T* inputs, const PanelShape& in, int64_t tiles, bool add,
                                   T* sums) {
  for (int64_t panel = 0; panel < in.channels / kPanel; ++panel) {
    for (int64_t row = 0; row < kPanel; row += kChannelRows) {
      multiply_small<T, kChannelRows, 1, kPanel>(gradients + row, 1, 0, tiles, inputs + panel * in.panel(), add,
                                                 sums + row * in.channels + panel * kPanel, in.channels);
    }
  }
}

}  // namespace m2o_fast
