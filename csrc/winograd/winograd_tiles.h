// Images to Winograd's frequencies and back, tile by tile. The definitions are in m2o_fast/ops/winograd.py.
#pragma once

#include <algorithm>

#include "winograd_maps.h"

namespace m2o_fast {

// Channels come in panels of so many: in float32 a line of the caches, which is one vector of AVX-512 or two of AVX2.
inline constexpr int64_t kPanel = 16;
inline constexpr int64_t kLine = 64;  // bytes
// So many tiles side by side are read or written at a time; their pixels stay in the first-level cache.
inline constexpr int64_t kStripTiles = 8, kStripPixels = kStripTiles * kOutputTile + kInputTile - kOutputTile;

// Images [batch, channels, height, width] in tiles of 4x4, the last ones of a row or column may stand out. In memory a
// pixel has its channels side by side (channels_last), or a channel its pixels. Around an image are zeros; if it is
// reflected, its mirror image, one pixel wide, and both sides have two pixels at least.
struct TileShape {
  int64_t batch, channels, height, width;
  bool channels_last, reflected;

  int64_t rows() const { return ceil_div(height, kOutputTile); }
  int64_t columns() const { return ceil_div(width, kOutputTile); }
  int64_t tiles() const { return batch * rows() * columns(); }
  int64_t panels() const { return channels / kPanel; }
  int64_t channel_step() const { return channels_last ? 1 : height * width; }
  int64_t pixel_step() const { return channels_last ? channels : 1; }
  int64_t row_of(int64_t image, int64_t panel, int64_t row) const {
    return image * channels * height * width + panel * kPanel * channel_step() + row * width * pixel_step();
  }
};

// Tiles whose frequencies lie together: what is written one after the other is on few pages of memory, as many as a
// processor finds at once. A multiple of the rows of a product, which are 6 or 8.
inline constexpr int64_t kTileBlock = 24;

// The frequencies of so many tiles, [channels / 16, tiles / 24, 36, 24 tiles, 16].
struct PanelShape {
  int64_t channels, tiles;

  // A line more than is needed, for the number of tiles is even: so the 36 numbers of a tile do not compete for the
  // same places of a cache.
  static constexpr int64_t frequency() { return (kTileBlock + 1) * kPanel; }
  static constexpr int64_t block() { return kFrequencies * frequency(); }
  static constexpr int64_t at(int64_t tile) { return tile / kTileBlock * block() + tile % kTileBlock * kPanel; }
  int64_t panel() const { return ceil_div(tiles, kTileBlock) * block(); }
  int64_t size() const { return channels / kPanel * panel(); }
};

// Tiles of one row of tiles of one image.
struct Strip {
  int64_t image, top, left, tiles;

  // Whether these pixels and so many around them are all of the image.
  M2O_INLINE bool is_inside(const TileShape& shape, int64_t border) const {
    return top >= border && left >= border && top + kOutputTile + border <= shape.height &&
           left + tiles * kOutputTile + border <= shape.width;
  }
};

// body(strip) for the tiles from begin to end. In channels_last a tile is a strip: a pixel's channels lie as they are
// needed, so where all pixels are there they need not be copied, nor does a copy become cheaper with its width.
template <typename Body>
M2O_INLINE void for_strips(const TileShape& shape, int64_t begin, int64_t end, const Body& body) {
  const int64_t most = shape.channels_last ? 1 : kStripTiles, line = begin / shape.columns();
  Strip strip{line / shape.rows(), line % shape.rows() * kOutputTile, begin % shape.columns() * kOutputTile, 0};
  for (int64_t tile = begin; tile < end; tile += strip.tiles) {
    strip.tiles = std::min({most, ceil_div(shape.width - strip.left, kOutputTile), end - tile});
    body(strip);
    strip.left += strip.tiles * kOutputTile;
    if (strip.left < shape.width) {
      continue;
    }
    strip.left = 0;
    strip.top += kOutputTile;
    if (strip.top >= shape.height) {
      strip.top = 0;
      ++strip.image;
    }
  }
}

// --- pixels [count, 16] of a row of an image ------------------------------------------------------------------------

M2O_INLINE void transpose_square(Floats* v) {
  Floats pairs[8], quads[8];
  M2O_UNROLLED for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shuffle(v[i], v[i + 1], Words{0, 8, 1, 9, 4, 12, 5, 13});
    pairs[i + 1] = __builtin_shuffle(v[i], v[i + 1], Words{2, 10, 3, 11, 6, 14, 7, 15});
  }
  M2O_UNROLLED for (int i = 0; i < 4; ++i) {
    const int left = i / 2 * 4 + i % 2;
    quads[i / 2 * 4 + i % 2 * 2] = __builtin_shuffle(pairs[left], pairs[left + 2], Words{0, 1, 8, 9, 4, 5, 12, 13});
    quads[i / 2 * 4 + i % 2 * 2 + 1] =
        __builtin_shuffle(pairs[left], pairs[left + 2], Words{2, 3, 10, 11, 6, 7, 14, 15});
  }
  M2O_UNROLLED for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shuffle(quads[i], quads[i + 4], Words{0, 1, 2, 3, 8, 9, 10, 11});
    v[i + 4] = __builtin_shuffle(quads[i], quads[i + 4], Words{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

M2O_INLINE void transpose_square(Doubles* v) {
  Doubles pairs[4];
  M2O_UNROLLED for (int i = 0; i < 4; i += 2) {
    pairs[i] = __builtin_shuffle(v[i], v[i + 1], LongWords{0, 4, 2, 6});
    pairs[i + 1] = __builtin_shuffle(v[i], v[i + 1], LongWords{1, 5, 3, 7});
  }
  M2O_UNROLLED for (int i = 0; i < 2; ++i) {
    v[i] = __builtin_shuffle(pairs[i], pairs[i + 2], LongWords{0, 1, 4, 5});
    v[i + 2] = __builtin_shuffle(pairs[i], pairs[i + 2], LongWords{2, 3, 6, 7});
  }
}

// to [columns, rows] = from [rows, columns], where one of both is kPanel; the steps are those from row to row.
template <typename T>
M2O_INLINE void transpose(const T* from, int64_t from_step, int64_t rows, int64_t columns, T* to, int64_t to_step) {
  constexpr int64_t side = kLanes<T>;
  const int64_t full_rows = rows / side * side, full_columns = columns / side * side;
  for (int64_t row = 0; row < full_rows; row += side) {
    for (int64_t column = 0; column < full_columns; column += side) {
      typename Simd<T>::Vector square[side];
      M2O_UNROLLED for (int64_t i = 0; i < side; ++i) { square[i] = load(from + (row + i) * from_step + column); }
      transpose_square(square);
      M2O_UNROLLED for (int64_t i = 0; i < side; ++i) { store(to + (column + i) * to_step + row, square[i]); }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = row < full_rows ? full_columns : 0; column < columns; ++column) {
      to[column * to_step + row] = from[row * from_step + column];
    }
  }
}

// Where in an image of so many rows, or columns, the mirror image of the one beside it stands.
M2O_INLINE int64_t mirrored(int64_t place, int64_t count) {
  return place == -1 ? 1 : place == count ? count - 2 : place;
}

template <typename T>
M2O_INLINE void copy_pixels(const T* from, int64_t from_step, int64_t count, T* to, int64_t to_step) {
  for (int64_t pixel = 0; pixel < count; ++pixel) {
    M2O_UNROLLED for (int64_t channel = 0; channel < kPanel; channel += kLanes<T>) {
      store(to + pixel * to_step + channel, load(from + pixel * from_step + channel));
    }
  }
}

// Rows of a strip, `border` pixels before its corner, to pixels [rows, kStripPixels, 16], and what is around the image.
template <typename T>
M2O_INLINE void read_strip(const TileShape& shape, const T* image, const Strip& strip, int64_t panel, int64_t border,
                           T* pixels) {
  const int64_t left = strip.left - border, end = left + strip.tiles * kOutputTile + 2 * border;
  const int64_t first = std::max<int64_t>(left, 0), last = std::min(end, shape.width);
  for (int64_t row = strip.top - border; row < strip.top + kOutputTile + border;
       ++row, pixels += kStripPixels * kPanel) {
    const int64_t source = shape.reflected ? mirrored(row, shape.height) : row;
    if (source < 0 || source >= shape.height) {
      std::fill_n(pixels, (end - left) * kPanel, T{});
      continue;
    }
    const T* from = image + shape.row_of(strip.image, panel, source) + first * shape.pixel_step();
    T* to = pixels + (first - left) * kPanel;
    std::fill(pixels, to, T{});
    shape.channels_last ? copy_pixels(from, shape.channels, last - first, to, kPanel)
                        : transpose(from, shape.channel_step(), kPanel, last - first, to, kPanel);
    std::fill_n(to + (last - first) * kPanel, (end - last) * kPanel, T{});
    if (shape.reflected && left < 0) {
      copy_pixels(pixels + (1 - left) * kPanel, kPanel, 1, pixels, kPanel);
    }
    if (shape.reflected && end > shape.width) {
      T* beyond = pixels + (shape.width - left) * kPanel;
      copy_pixels(beyond - 2 * kPanel, kPanel, 1, beyond, kPanel);
    }
  }
}

// The other way round, without a border; pixels outside are left out.
template <typename T>
M2O_INLINE void write_strip(const TileShape& shape, const T* pixels, const Strip& strip, int64_t panel, T* image) {
  const int64_t rows = std::min(kOutputTile, shape.height - strip.top);
  const int64_t count = std::min(strip.tiles * kOutputTile, shape.width - strip.left);
  for (int64_t row = 0; row < rows; ++row, pixels += kStripPixels * kPanel) {
    T* to = image + shape.row_of(strip.image, panel, strip.top + row) + strip.left * shape.pixel_step();
    shape.channels_last ? copy_pixels(pixels, kPanel, count, to, shape.channels)
                        : transpose(pixels, kPanel, count, kPanel, to, shape.channel_step());
  }
}

template <typename T>
M2O_INLINE void add_pixels(const T* from, int64_t from_step, int64_t count, T* to, int64_t to_step) {
  for (int64_t pixel = 0; pixel < count; ++pixel) {
    M2O_UNROLLED for (int64_t channel = 0; channel < kPanel; channel += kLanes<T>) {
      T* place = to + pixel * to_step + channel;
      store(place, load(place) + load(from + pixel * from_step + channel));
    }
  }
}

// The adjoint of reading a strip of a reflected image with a border of one pixel: adds all pixels to where they came
// from. Overwrites them.
template <typename T>
M2O_INLINE void add_strip(const TileShape& shape, T* pixels, const Strip& strip, int64_t panel, T* image) {
  const int64_t left = strip.left - 1, end = left + strip.tiles * kOutputTile + 2;
  const int64_t first = std::max<int64_t>(left, 0), last = std::min(end, shape.width);
  for (int64_t at = 0; at < kInputTile; ++at) {
    const int64_t row = mirrored(strip.top - 1 + at, shape.height);
    if (row >= shape.height) {
      break;
    }
    T* line = pixels + at * kStripPixels * kPanel;
    if (left < 0) {
      add_pixels(line, kPanel, 1, line + (1 - left) * kPanel, kPanel);
    }
    if (end > shape.width) {
      T* beyond = line + (shape.width - left) * kPanel;
      add_pixels(beyond, kPanel, 1, beyond - 2 * kPanel, kPanel);
    }
    const T* from = line + (first - left) * kPanel;
    T* to = image + shape.row_of(strip.image, panel, row) + first * shape.pixel_step();
    if (shape.channels_last) {
      add_pixels(from, kPanel, last - first, to, shape.channels);
      continue;
    }
    T turned[kPanel * kStripPixels];
    transpose(from, kPanel, last - first, kPanel, turned, kStripPixels);
    for (int64_t channel = 0; channel < kPanel; ++channel) {
      for (int64_t column = 0; column < last - first; ++column) {
        to[channel * shape.channel_step() + column] += turned[channel * kStripPixels + column];
      }
    }
  }
}

// --- tiles ----------------------------------------------------------------------------------------------------------

// Brings near where the frequencies of 16 channels are about to be written, which lie `step` apart: each of these lines
// would be waited for.
template <typename T>
M2O_INLINE void fetch_frequencies(const T* first, int64_t step) {
  M2O_UNROLLED for (int64_t frequency = 0; frequency < kFrequencies; ++frequency) {
    M2O_UNROLLED for (int64_t channel = 0; channel < kPanel; channel += kLine / sizeof(T)) {
      __builtin_prefetch(first + frequency * step + channel, 1);
    }
  }
}

// The same for 4x4 pixels of an image; in float64 for half of the 16 channels.
template <typename T>
M2O_INLINE void fetch_pixels(const T* corner, int64_t row_step, int64_t pixel_step) {
  M2O_UNROLLED for (int64_t row = 0; row < kOutputTile; ++row) {
    M2O_UNROLLED for (int64_t pixel = 0; pixel < kOutputTile; ++pixel) {
      __builtin_prefetch(corner + row * row_step + pixel * pixel_step, 1);
    }
  }
}

// One panel of channels of the tiles from begin to end, `border` pixels before each tile's corner, to frequencies.
template <template <typename> typename Map, typename Vector, typename T>
M2O_INLINE void to_frequencies(const TileShape& shape, const T* image, int64_t panel, int64_t begin, int64_t end,
                               const PanelShape& layout, T* frequencies) {
  constexpr int64_t border = (Map<T>::kFrom - kOutputTile) / 2;
  alignas(kLine) T pixels[kInputTile * kStripPixels * kPanel];
  int64_t done = 0;
  for_strips(shape, begin, end, [&](const Strip& strip) M2O_INLINED {
    const T* from = pixels;
    int64_t row_step = kStripPixels * kPanel, pixel_step = kPanel;
    if (shape.channels_last && strip.is_inside(shape, border)) {
      row_step = shape.width * shape.channels, pixel_step = shape.channels;
      from = image + shape.row_of(strip.image, panel, strip.top - border) + (strip.left - border) * pixel_step;
    } else {
      read_strip(shape, image, strip, panel, border, pixels);
    }
    for (int64_t tile = 0; tile < strip.tiles; ++tile, ++done) {
      T* to = frequencies + panel * layout.panel() + layout.at(done);
      fetch_frequencies(frequencies + panel * layout.panel() + layout.at(done + 1), layout.frequency());
      for (int64_t channel = 0; channel < kPanel; channel += kLanesOf<Vector>) {
        const T* corner = from + tile * kOutputTile * pixel_step + channel;
        map_square<Map<T>, Vector>(
            [&](int row, int column)
                M2O_INLINED { return read_as<Vector>(corner + row * row_step + column * pixel_step); },
            [&](int row, int column, Vector value)
                M2O_INLINED { write_vector(to + (row * kInputTile + column) * layout.frequency() + channel, value); });
      }
    }
  });
}

// Frequencies of one panel of channels to the image; bias [channels] or nullptr. Of the frequencies, `panel` is the
// first.
template <typename Vector, typename T>
M2O_INLINE void to_image(const TileShape& shape, const T* frequencies, const PanelShape& layout, const T* bias,
                         int64_t panel, int64_t begin, int64_t end, T* image) {
  alignas(kLine) T pixels[kOutputTile * kStripPixels * kPanel];
  int64_t done = 0;
  for_strips(shape, begin, end, [&](const Strip& strip) M2O_INLINED {
    const bool direct = shape.channels_last && strip.is_inside(shape, 0);
    T* to = direct ? image + shape.row_of(strip.image, panel, strip.top) + strip.left * shape.channels : pixels;
    const int64_t row_step = direct ? shape.width * shape.channels : kStripPixels * kPanel;
    const int64_t pixel_step = direct ? shape.channels : kPanel;
    for (int64_t tile = 0; tile < strip.tiles; ++tile, ++done) {
      const T* from = frequencies + layout.at(done);
      if (direct) {
        fetch_pixels(to + (tile + 1) * kOutputTile * pixel_step, row_step, pixel_step);
      }
      for (int64_t channel = 0; channel < kPanel; channel += kLanesOf<Vector>) {
        T* corner = to + tile * kOutputTile * pixel_step + channel;
        const Vector added = bias ? read_as<Vector>(bias + panel * kPanel + channel) : Vector{};
        map_square<OutputMap<T>, Vector>(
            [&](int row, int column) M2O_INLINED {
              return read_as<Vector>(from + (row * kInputTile + column) * layout.frequency() + channel);
            },
            [&](int row, int column, Vector value)
                M2O_INLINED { write_vector(corner + row * row_step + column * pixel_step, value + added); });
      }
    }
    if (!direct) {
      write_strip(shape, pixels, strip, panel, image);
    }
  });
}

// The adjoint of to_frequencies of InputMap and a reflected image: adds to the image.
template <typename Vector, typename T>
M2O_INLINE void add_to_image(const TileShape& shape, const T* frequencies, const PanelShape& layout, int64_t panel,
                             int64_t begin, int64_t end, T* image) {
  alignas(kLine) T pixels[kInputTile * kStripPixels * kPanel];
  int64_t done = 0;
  for_strips(shape, begin, end, [&](const Strip& strip) M2O_INLINED {
    const bool direct = shape.channels_last && strip.is_inside(shape, 1);
    T* to = pixels;
    int64_t row_step = kStripPixels * kPanel, pixel_step = kPanel;
    if (direct) {
      row_step = shape.width * shape.channels, pixel_step = shape.channels;
      to = image + shape.row_of(strip.image, panel, strip.top - 1) + (strip.left - 1) * pixel_step;
    } else {
      std::fill(std::begin(pixels), std::end(pixels), T{});
    }
    for (int64_t tile = 0; tile < strip.tiles; ++tile, ++done) {
      const T* from = frequencies + layout.at(done);
      for (int64_t channel = 0; channel < kPanel; channel += kLanesOf<Vector>) {
        T* corner = to + tile * kOutputTile * pixel_step + channel;
        map_square<InputAdjointMap<T>, Vector>(
            [&](int row, int column) M2O_INLINED {
              return read_as<Vector>(from + (row * kInputTile + column) * layout.frequency() + channel);
            },
            [&](int row, int column, Vector value) M2O_INLINED {
              T* place = corner + row * row_step + column * pixel_step;
              write_vector(place, read_as<Vector>(place) + value);
            });
      }
    }
    if (!direct) {
      add_strip(shape, pixels, strip, panel, image);
    }
  });
}

}  // namespace m2o_fast
