// Winograd's convolution F(4x4, 3x3) of channels_last images. The definitions are in m2o_fast/ops/winograd.py.
//
// Interpolation at 0, +-3/4, +-3/2 and infinity: of the points tried, those whose rounding errors are smallest. All
// constants are exact in float32.
#pragma once

#include <algorithm>

#include "simd.h"

namespace m2o_fast {

inline constexpr int64_t OUTPUT_TILE = 4, INPUT_TILE = 6, FREQUENCIES = 36;
inline constexpr double WINOGRAD_A = 0.75, WINOGRAD_B = 1.5;

// Images [batch, height, width, channels] in tiles of 4x4, the last ones of a row or column may stand out.
struct TileShape {
  int64_t batch, channels, height, width;

  int64_t rows() const { return ceil_div(height, OUTPUT_TILE); }
  int64_t columns() const { return ceil_div(width, OUTPUT_TILE); }
  int64_t tiles() const { return batch * rows() * columns(); }
};

struct TilePlace {
  int64_t image, top, left;
};

M2O_INLINE TilePlace place_of(const TileShape& shape, int64_t tile) {
  const int64_t column = tile % shape.columns(), line = tile / shape.columns();
  return {line / shape.rows(), line % shape.rows() * OUTPUT_TILE, column * OUTPUT_TILE};
}

// What a map does to 6 or 4 numbers that lie `step` apart.
template <typename T>
struct InputMap {
  static constexpr int FROM = INPUT_TILE, TO = INPUT_TILE;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* d, int in, Vector* v, int out) {
    constexpr T a = WINOGRAD_A, b = WINOGRAD_B, sum = a * a + b * b, product = a * a * b * b;
    const Vector even_a = d[4 * in] - d[2 * in] * (b * b), odd_a = (d[3 * in] - d[in] * (b * b)) * a;
    const Vector even_b = d[4 * in] - d[2 * in] * (a * a), odd_b = (d[3 * in] - d[in] * (a * a)) * b;
    v[0] = d[4 * in] - d[2 * in] * sum + d[0] * product;
    v[out] = even_a + odd_a;
    v[2 * out] = even_a - odd_a;
    v[3 * out] = even_b + odd_b;
    v[4 * out] = even_b - odd_b;
    v[5 * out] = d[5 * in] - d[3 * in] * sum + d[in] * product;
  }
};

template <typename T>
struct OutputMap {
  static constexpr int FROM = INPUT_TILE, TO = OUTPUT_TILE;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* m, int in, Vector* y, int out) {
    constexpr T a = WINOGRAD_A, b = WINOGRAD_B;
    const Vector sum_a = m[in] + m[2 * in], difference_a = m[in] - m[2 * in];
    const Vector sum_b = m[3 * in] + m[4 * in], difference_b = m[3 * in] - m[4 * in];
    y[0] = m[0] + sum_a + sum_b;
    y[out] = difference_a * a + difference_b * b;
    y[2 * out] = sum_a * (a * a) + sum_b * (b * b);
    y[3 * out] = difference_a * (a * a * a) + difference_b * (b * b * b) + m[5 * in];
  }
};

// The transpose of OutputMap.
template <typename T>
struct OutputAdjointMap {
  static constexpr int FROM = OUTPUT_TILE, TO = INPUT_TILE;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* y, int in, Vector* m, int out) {
    constexpr T a = WINOGRAD_A, b = WINOGRAD_B;
    const Vector even_a = y[0] + y[2 * in] * (a * a), odd_a = y[in] * a + y[3 * in] * (a * a * a);
    const Vector even_b = y[0] + y[2 * in] * (b * b), odd_b = y[in] * b + y[3 * in] * (b * b * b);
    m[0] = y[0];
    m[out] = even_a + odd_a;
    m[2 * out] = even_a - odd_a;
    m[3 * out] = even_b + odd_b;
    m[4 * out] = even_b - odd_b;
    m[5 * out] = y[3 * in];
  }
};

// The map along columns, then along rows: FROM x FROM vectors to TO x TO.
template <typename Map, typename Vector>
M2O_INLINE void map_square(const Vector* from, Vector* to) {
  Vector between[Map::TO * Map::FROM];
  for (int column = 0; column < Map::FROM; ++column) {
    Map::run(from + column, Map::FROM, between + column, Map::FROM);
  }
  for (int row = 0; row < Map::TO; ++row) {
    Map::run(between + row * Map::FROM, 1, to + row * Map::TO, 1);
  }
}

// Tiles are worked on in blocks that the caches hold; inside one, all frequencies of a tile lie together: a block is
// [tiles, 36, channels].
inline constexpr int64_t BLOCK_TILES = 24;

// Squares of the image, `border` pixels before the tile's corner, to frequencies. Pixels outside are 0.
template <typename Map, typename T>
M2O_INLINE void to_frequencies(const TileShape& shape, const T* image, int64_t border, int64_t begin, int64_t end,
                               T* block) {
  using Vector = typename Simd<T>::Vector;
  for (int64_t tile = begin; tile < end; ++tile, block += FREQUENCIES * shape.channels) {
    const TilePlace place = place_of(shape, tile);
    for (int64_t channel = 0; channel < shape.channels; channel += lanes<T>) {
      Vector from[Map::FROM * Map::FROM], to[FREQUENCIES];
      for (int64_t y = 0; y < Map::FROM; ++y) {
        for (int64_t x = 0; x < Map::FROM; ++x) {
          const int64_t row = place.top + y - border, column = place.left + x - border;
          const bool inside = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
          const int64_t pixel = (place.image * shape.height + row) * shape.width + column;
          from[y * Map::FROM + x] = inside ? load(image + pixel * shape.channels + channel) : Vector{};
        }
      }
      map_square<Map>(from, to);
      for (int64_t frequency = 0; frequency < FREQUENCIES; ++frequency) {
        store(block + frequency * shape.channels + channel, to[frequency]);
      }
    }
  }
}

// Frequencies to the image; bias [channels] or nullptr.
template <typename T>
M2O_INLINE void to_image(const TileShape& shape, const T* block, const T* bias, int64_t begin, int64_t end, T* image) {
  using Vector = typename Simd<T>::Vector;
  for (int64_t tile = begin; tile < end; ++tile, block += FREQUENCIES * shape.channels) {
    const TilePlace place = place_of(shape, tile);
    const int64_t rows = std::min(OUTPUT_TILE, shape.height - place.top);
    const int64_t columns = std::min(OUTPUT_TILE, shape.width - place.left);
    for (int64_t channel = 0; channel < shape.channels; channel += lanes<T>) {
      Vector from[FREQUENCIES], to[OUTPUT_TILE * OUTPUT_TILE];
      for (int64_t frequency = 0; frequency < FREQUENCIES; ++frequency) {
        from[frequency] = load(block + frequency * shape.channels + channel);
      }
      map_square<OutputMap<T>>(from, to);
      const Vector added = bias ? load(bias + channel) : Vector{};
      for (int64_t y = 0; y < rows; ++y) {
        for (int64_t x = 0; x < columns; ++x) {
          const int64_t pixel = (place.image * shape.height + place.top + y) * shape.width + place.left + x;
          store(image + pixel * shape.channels + channel, to[y * OUTPUT_TILE + x] + added);
        }
      }
    }
  }
}

// c [ROWS, 2 vectors] (+)= the sum over k of a[k, r] * b[k]: what twelve registers of sums can hold.
template <typename T, int ROWS, bool ADD>
M2O_INLINE void multiply_small(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step, int64_t steps,
                               T* c, int64_t c_row) {
  using Vector = typename Simd<T>::Vector;
  Vector sums[ROWS][2];
  M2O_UNROLLED for (int row = 0; row < ROWS; ++row) {
    sums[row][0] = ADD ? load(c + row * c_row) : Vector{};
    sums[row][1] = ADD ? load(c + row * c_row + lanes<T>) : Vector{};
  }
  for (int64_t k = 0; k < steps; ++k, a += a_step, b += b_step) {
    const Vector first = load(b), second = load(b + lanes<T>);
    M2O_UNROLLED for (int row = 0; row < ROWS; ++row) {
      const T factor = a[row * a_row];
      sums[row][0] += first * factor;
      sums[row][1] += second * factor;
    }
  }
  M2O_UNROLLED for (int row = 0; row < ROWS; ++row) {
    store(c + row * c_row, sums[row][0]);
    store(c + row * c_row + lanes<T>, sums[row][1]);
  }
}

inline constexpr int TILE_ROWS = 6, CHANNEL_ROWS = 4;  // BLOCK_TILES and CHANNEL_MULTIPLE are multiples of these
inline constexpr int64_t CHANNEL_MULTIPLE = 16;        // two vectors of float32

// products [BLOCK_TILES, 36, out] = inputs [BLOCK_TILES, 36, in] times kernel [36, in, out], per frequency.
template <typename T>
M2O_INLINE void multiply_kernel(const T* inputs, const T* kernel, int64_t in, int64_t out, T* products) {
  for (int64_t frequency = 0; frequency < FREQUENCIES; ++frequency) {
    for (int64_t tile = 0; tile < BLOCK_TILES; tile += TILE_ROWS) {
      const T* a = inputs + (tile * FREQUENCIES + frequency) * in;
      T* c = products + (tile * FREQUENCIES + frequency) * out;
      for (int64_t channel = 0; channel < out; channel += 2 * lanes<T>) {
        multiply_small<T, TILE_ROWS, false>(a, FREQUENCIES * in, 1, kernel + frequency * in * out + channel, out, in,
                                            c + channel, FREQUENCIES * out);
      }
    }
  }
}

// sums [36, out, in] += outputs [tiles, 36, out] times inputs [tiles, 36, in], per frequency, over the tiles.
template <typename T>
M2O_INLINE void add_outer_products(const T* outputs, const T* inputs, int64_t tiles, int64_t in, int64_t out, T* sums) {
  for (int64_t frequency = 0; frequency < FREQUENCIES; ++frequency) {
    for (int64_t row = 0; row < out; row += CHANNEL_ROWS) {
      const T* a = outputs + frequency * out + row;
      T* c = sums + (frequency * out + row) * in;
      for (int64_t channel = 0; channel < in; channel += 2 * lanes<T>) {
        multiply_small<T, CHANNEL_ROWS, true>(a, 1, FREQUENCIES * out, inputs + frequency * in + channel,
                                              FREQUENCIES * in, tiles, c + channel, in);
      }
    }
  }
}

template <typename T>
struct ConvolveProblem {
  TileShape input, output;
  const T *x, *kernel, *bias;
  T* y;
};

// Blocks of tiles; `inputs` and `products` hold one block each.
template <typename T>
M2O_INLINE void convolve_blocks(const ConvolveProblem<T>& p, int64_t begin, int64_t end, T* inputs, T* products) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * BLOCK_TILES, last = std::min(first + BLOCK_TILES, p.input.tiles());
    to_frequencies<InputMap<T>>(p.input, p.x, 1, first, last, inputs);
    multiply_kernel(inputs, p.kernel, p.input.channels, p.output.channels, products);
    to_image(p.output, products, p.bias, first, last, p.y);
  }
}

template <typename T>
struct ByWeightProblem {
  TileShape input, output;
  const T *x, *grad;
};

// Adds what the blocks contribute to sums [36, out, in].
template <typename T>
M2O_INLINE void by_weight_blocks(const ByWeightProblem<T>& p, int64_t begin, int64_t end, T* inputs, T* outputs,
                                 T* sums) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * BLOCK_TILES, last = std::min(first + BLOCK_TILES, p.input.tiles());
    to_frequencies<InputMap<T>>(p.input, p.x, 1, first, last, inputs);
    to_frequencies<OutputAdjointMap<T>>(p.output, p.grad, 0, first, last, outputs);
    add_outer_products(outputs, inputs, last - first, p.input.channels, p.output.channels, sums);
  }
}

}  // namespace m2o_fast
