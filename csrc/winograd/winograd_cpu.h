// Winograd's convolution F(4x4, 3x3) and its derivative by the weight, a product of matrices per frequency. Every
// function takes the type of the vectors that it is to compute with.
#pragma once

#include "winograd_tiles.h"

namespace m2o_fast {

// A dense [rows, columns, 3, 3], contiguous or channels_last.
struct WeightShape {
  int64_t columns;
  bool channels_last;

  int64_t row() const { return columns * 9; }
  int64_t at(int64_t row, int64_t column) const { return row * columns * 9 + (channels_last ? column : column * 9); }
};

// A weight [out, in, 3, 3]; `transposed` it is [in, out, 3, 3]. The derivative by the input is a convolution as well,
// from outputs to inputs with the kernel turned by 180 degrees: `turned`, the taps are read from the last.
template <typename T>
struct Weight {
  WeightShape shape;
  const T* taps;
  bool transposed, turned;
};

// A block of a weight in frequencies, [out / 16, in / 16, 36, 16 in, 16 out]. The numbers that are written one after
// the other lie on few pages of memory, and with a line between as in PanelShape.
struct BlockShape {
  int64_t out_panels, in_panels;

  static constexpr int64_t frequency() { return kPanel * kPanel + kPanel; }
  static constexpr int64_t square() { return kFrequencies * frequency(); }
  int64_t panel() const { return in_panels * square(); }
  int64_t size() const { return out_panels * panel(); }
};

// A square of panels of the weight, from its channels `out` and `in` on, to taps [in, 9, out].
template <typename T>
M2O_INLINE void read_taps(const Weight<T>& weight, int64_t out, int64_t in, T* taps) {
  const auto [columns, channels_last] = weight.shape;
  const int64_t step = weight.shape.row();
  const T* from = weight.taps + (weight.transposed ? weight.shape.at(in, out) : weight.shape.at(out, in));
  if (weight.transposed) {
    for (int64_t row = 0; row < kPanel; ++row, from += step, taps += 9 * kPanel) {
      channels_last ? copy_pixels(from, columns, 9, taps, kPanel) : transpose(from, 9, kPanel, 9, taps, kPanel);
    }
  } else if (channels_last) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      transpose(from + tap * columns, step, kPanel, kPanel, taps + tap * kPanel, 9 * kPanel);
    }
  } else {
    transpose(from, step, kPanel, 9 * kPanel, taps, kPanel);
  }
}

// A square of panels of the weight to frequencies.
template <typename Vector, typename T>
M2O_INLINE void weight_to_frequencies(const Weight<T>& weight, int64_t out_panel, int64_t in_panel, T* to) {
  alignas(kLine) T taps[kPanel * 9 * kPanel];  // [in, 9, out]
  read_taps(weight, out_panel * kPanel, in_panel * kPanel, taps);
  const int64_t first = weight.turned ? 8 * kPanel : 0, step = weight.turned ? -kPanel : kPanel;
  for (int64_t row = 0; row < kPanel; ++row, to += kPanel) {
    fetch_frequencies(to + kPanel, BlockShape::frequency());
    for (int64_t lane = 0; lane < kPanel; lane += kLanesOf<Vector>) {
      const T* from = taps + row * 9 * kPanel + first + lane;
      map_square<KernelMap<T>, Vector>(
          [&](int row, int column) M2O_INLINED { return read_as<Vector>(from + (row * 3 + column) * step); },
          [&](int row, int column, Vector value)
              M2O_INLINED { write_vector(to + (row * kInputTile + column) * BlockShape::frequency() + lane, value); });
    }
  }
}

// Writes `count` numbers, or adds them to what is there if `add`.
template <typename Vector, typename T>
M2O_INLINE void put(const T* from, int64_t count, bool add, T* to) {
  for (int64_t at = 0; at < count; at += kLanesOf<Vector>) {
    const Vector value = read_as<Vector>(from + at);
    write_vector(to + at, add ? read_as<Vector>(to + at) + value : value);
  }
}

// Sixteen inputs' gradients, [16, 3, 3] or channels_last, from their frequencies [36, 16], which lie `step` apart;
// added to what is there if `add`.
template <typename Vector, typename T>
M2O_INLINE void weight_from_frequencies(const T* frequencies, int64_t step, bool add, const WeightShape& shape,
                                        T* weight) {
  alignas(kLine) T square[9 * kPanel], taps[kPanel * 9];
  for (int64_t lane = 0; lane < kPanel; lane += kLanesOf<Vector>) {
    map_square<KernelAdjointMap<T>, Vector>(
        [&](int row, int column)
            M2O_INLINED { return read_as<Vector>(frequencies + (row * kInputTile + column) * step + lane); },
        [&](int row, int column, Vector value)
            M2O_INLINED { write_vector(square + (row * 3 + column) * kPanel + lane, value); });
  }
  if (shape.channels_last) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      put<Vector>(square + tap * kPanel, kPanel, add, weight + tap * shape.columns);
    }
  } else if (add) {
    transpose(square, kPanel, 9, kPanel, taps, 9);
    put<Vector>(taps, kPanel * 9, true, weight);
  } else {
    transpose(square, kPanel, 9, kPanel, weight, 9);
  }
}

// Where numbers of 16 channels each begin: those of a channel lie at `panel * step` and its place in the panel.
template <typename T>
struct Panels {
  T* numbers;
  int64_t step;
  M2O_INLINE T* at(int64_t channel) const { return numbers + channel / kPanel * step + channel % kPanel; }
};

// c [kRows, kVectors] = the sum over runs and steps of a[run, step, row] * b[run, step], added to what is there if
// `add`. The order is that of the steps, however often a sum is put down and taken up again. If `kFetch`, the next rows
// of a are brought near: each run of them is on a page of its own, where no processor would look ahead.
template <typename Vector, int kRows, int kVectors, int kARow, int kAStep, bool kFetch, typename T>
M2O_INLINE void multiply_small(const T* a, int64_t a_run, const T* const* b, int64_t b_run, int64_t run, int64_t steps,
                               bool add, T* const* c, int64_t c_row) {
  Vector sums[kRows][kVectors];
  M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
    M2O_UNROLLED for (int at = 0; at < kVectors; ++at) {
      sums[row][at] = add ? read_as<Vector>(c[at] + row * c_row) : Vector{};
    }
  }
  for (int64_t done = 0, place = 0; done < steps; done += run, a += a_run, place += b_run) {
    const T* left = a;
    int64_t right = place;
    if constexpr (kFetch) {
      M2O_UNROLLED for (int row = kRows; row < 2 * kRows; ++row) { __builtin_prefetch(a + row * kARow); }
    }
    for (int64_t count = std::min(run, steps - done); count > 0; --count, left += kAStep, right += kPanel) {
      Vector factors[kVectors];
      M2O_UNROLLED for (int at = 0; at < kVectors; ++at) { factors[at] = read_as<Vector>(b[at] + right); }
      M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
        const T factor = left[row * kARow];
        M2O_UNROLLED for (int at = 0; at < kVectors; ++at) { sums[row][at] += factors[at] * factor; }
      }
    }
  }
  M2O_UNROLLED for (int row = 0; row < kRows; ++row) {
    M2O_UNROLLED for (int at = 0; at < kVectors; ++at) { write_vector(c[at] + row * c_row, sums[row][at]); }
  }
}

// body(vectors, places of their b, places of their c) for the channels, two vectors at a time and one where one is
// left.
template <typename Vector, typename T, typename Body>
M2O_INLINE void for_vector_pairs(int64_t channels, const Panels<const T>& b, const Panels<T>& c, const Body& body) {
  constexpr int64_t lanes = kLanesOf<Vector>;
  for (int64_t channel = 0; channel < channels; channel += 2 * lanes) {
    const bool both = channel + lanes < channels;
    const int64_t second = both ? channel + lanes : channel;
    const T* from[] = {b.at(channel), b.at(second)};
    T* to[] = {c.at(channel), c.at(second)};
    if (both) {
      body(std::integral_constant<int, 2>{}, from, to);
    } else {
      body(std::integral_constant<int, 1>{}, from, to);
    }
  }
}

// Rows of multiply_small whose sums, two vectors each, the registers hold: twelve of the 16 of AVX2, half of the 32 of
// AVX-512, where more would not be faster. What is left of the tiles takes fewer.
template <typename Vector>
inline constexpr int kTileRows = sizeof(Vector) == 64 ? 8 : 6;
template <typename Vector>
inline constexpr int kLastTileRows = sizeof(Vector) == 64 ? 4 : 6;
template <typename Vector>
inline constexpr int kChannelRows = sizeof(Vector) == 64 ? 8 : 4;  // kPanel is a multiple

// If the output is reflected, the derivative by the input of a convolution of a reflected image: the transposed maps,
// which add to the output.
template <typename T>
struct ConvolveProblem {
  TileShape input, output;
  Weight<T> weight;
  const T *x, *bias;
  T* y;
};

// products [tiles, out] (+)= inputs [tiles, in] * weight [in, out], a block of a frequency. Rows between the last tile
// and the next multiple of kLastTileRows hold whatever was in memory; what becomes of them is not used.
template <typename Vector, typename T>
M2O_INLINE void multiply_block(const T* inputs, int64_t tiles, const PanelShape& in, const T* weight,
                               const BlockShape& block, bool add, const PanelShape& out, T* products) {
  constexpr int rows = kTileRows<Vector>, last = kLastTileRows<Vector>;
  for_vector_pairs<Vector, T>(block.out_panels * kPanel, {weight, block.panel()}, {products, out.panel()},
                              [&](auto vectors, const T* const* b, T* const* c) M2O_INLINED {
                                constexpr int count = decltype(vectors)::value;
                                const auto run = [&](auto rows, int64_t tile) M2O_INLINED {
                                  T* to[] = {c[0] + out.at(tile), c[1] + out.at(tile)};
                                  multiply_small<Vector, decltype(rows)::value, count, kPanel, 1, true>(
                                      inputs + in.at(tile), in.panel(), b, BlockShape::square(), kPanel,
                                      block.in_panels * kPanel, add, to, kPanel);
                                };
                                int64_t tile = 0;
                                for (; tile + rows <= tiles; tile += rows) {
                                  run(std::integral_constant<int, rows>{}, tile);
                                }
                                for (; tile < tiles; tile += last) {
                                  run(std::integral_constant<int, last>{}, tile);
                                }
                              });
}

// Input channels [first, first + block.in_panels) of output channels from out_begin on, all in panels.
template <typename Vector, typename T>
M2O_INLINE void block_to_frequencies(const Weight<T>& weight, int64_t out_begin, int64_t first, const BlockShape& block,
                                     T* to) {
  for (int64_t panel = 0; panel < block.out_panels; ++panel) {
    for (int64_t at = 0; at < block.in_panels; ++at) {
      weight_to_frequencies<Vector>(weight, out_begin + panel, first + at,
                                    to + panel * block.panel() + at * block.square());
    }
  }
}

// Channels [out_begin, out_end) (in panels) of the tiles [begin, end), whose inputs are there in frequencies. The
// weight's frequencies are made for this, unless they are there as a whole (`made`): a block at a time they stay in the
// second-level cache, and making them costs less than fetching them from memory would.
template <typename Vector, typename T>
M2O_INLINE void convolve_block(const ConvolveProblem<T>& p, int64_t out_begin, int64_t out_end, int64_t in_block,
                               int64_t begin, int64_t end, const T* inputs, const PanelShape& in, bool made, T* weights,
                               T* products) {
  const PanelShape out{(out_end - out_begin) * kPanel, in.tiles};
  if (p.input.panels() == 0) {
    std::fill_n(products, out.size(), T{});
  }
  for (int64_t first = 0; first < p.input.panels(); first += in_block) {
    const BlockShape block{out_end - out_begin, std::min(in_block, p.input.panels() - first)};
    if (!made) {
      block_to_frequencies<Vector>(p.weight, out_begin, first, block, weights);
    }
    for (int64_t frequency = 0; frequency < kFrequencies; ++frequency) {
      multiply_block<Vector>(inputs + frequency * in.frequency() + first * in.panel(), end - begin, in,
                             weights + frequency * block.frequency(), block, first > 0, out,
                             products + frequency * out.frequency());
    }
  }
  for (int64_t panel = out_begin; panel < out_end; ++panel) {
    const T* found = products + (panel - out_begin) * out.panel();
    if (p.output.reflected) {
      add_to_image<Vector>(p.output, found, out, panel, begin, end, p.y);
    } else {
      to_image<Vector>(p.output, found, out, p.bias, panel, begin, end, p.y);
    }
  }
}

// The sums of a block of a weight's gradient, [36, out, in], with a line between as in PanelShape.
struct SumsShape {
  int64_t out_panels, in_panels;

  int64_t row() const { return in_panels * kPanel; }
  int64_t frequency() const { return out_panels * kPanel * row() + kPanel; }
  int64_t size() const { return kFrequencies * frequency(); }
};

// Brings a share of a frequency of `tiles` tiles into the second-level cache.
template <typename T>
M2O_INLINE void fetch_tiles(const T* frequency, const PanelShape& shape, int64_t panels, int64_t tiles, int64_t share,
                            int64_t shares) {
  const int64_t from = tiles * share / shares, to = tiles * (share + 1) / shares;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t tile = from; tile < to; ++tile) {
      __builtin_prefetch(frequency + panel * shape.panel() + PanelShape::at(tile), 0, 2);
    }
  }
}

// The gradient by the weight of a block of its channels, from frequencies of gradients and inputs of `tiles` tiles
// each. If `fetch`, those of the next frequency are brought near meanwhile: they are not in the second-level cache.
template <typename Vector, typename T>
M2O_INLINE void weight_gradient_block(const T* gradients, const PanelShape& out, const T* inputs, const PanelShape& in,
                                      int64_t tiles, const SumsShape& block, bool fetch, bool add, T* sums,
                                      const WeightShape& shape, T* weight) {
  constexpr int rows = kChannelRows<Vector>;
  for (int64_t frequency = 0; frequency < kFrequencies; ++frequency) {
    for (int64_t channel = 0; channel < block.out_panels * kPanel; channel += rows) {
      if (fetch) {
        const int64_t share = channel / rows, shares = block.out_panels * kPanel / rows;
        fetch_tiles(gradients + (frequency + 1) * out.frequency(), out, block.out_panels, tiles, share, shares);
        fetch_tiles(inputs + (frequency + 1) * in.frequency(), in, block.in_panels, tiles, share, shares);
      }
      const T* a = Panels<const T>{gradients + frequency * out.frequency(), out.panel()}.at(channel);
      for_vector_pairs<Vector, T>(block.row(), {inputs + frequency * in.frequency(), in.panel()},
                                  {sums + frequency * block.frequency() + channel * block.row(), kPanel},
                                  [&](auto vectors, const T* const* b, T* const* c) M2O_INLINED {
                                    multiply_small<Vector, rows, decltype(vectors)::value, 1, kPanel, false>(
                                        a, out.block(), b, in.block(), kTileBlock, tiles, false, c, block.row());
                                  });
    }
  }
  for (int64_t channel = 0; channel < block.out_panels * kPanel; ++channel) {
    for (int64_t panel = 0; panel < block.in_panels; ++panel) {
      weight_from_frequencies<Vector>(sums + channel * block.row() + panel * kPanel, block.frequency(), add, shape,
                                      weight + shape.at(channel, panel * kPanel));
    }
  }
}

}  // namespace m2o_fast
