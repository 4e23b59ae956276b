#include "histogram.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "common.h"
#include "simd.h"
#include "stable_torch.h"

namespace m2o_fast {
namespace {

// Pixels handled at a time: four float64 planes of them stay in the first-level cache, and a sum of their uint8
// products fits 32 bits.
constexpr int64_t kChunk = 1024;
// Processors fetch ahead by themselves, but only to the end of a page of memory, which may hold a single small plane.
constexpr int64_t kFetchAhead = 12288;
// Pixels that are worth another thread.
constexpr int64_t kPixelsPerThread = 16384;

int64_t images_per_thread(const Images& images) {
  return std::max<int64_t>(1, kPixelsPerThread / std::max<int64_t>(1, images.height * images.width));
}

// Calls visit(row, column, length) for pieces of one image that hold at most kChunk evenly spaced pixels. If rows
// follow each other in memory, a piece may run over the end of its row.
template <typename Visit>
M2O_INLINE void for_each_chunk(const Images& images, bool one_run, const Visit& visit) {
  const int64_t rows = one_run ? 1 : images.height;
  const int64_t length = one_run ? images.height * images.width : images.width;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < length; column += kChunk) {
      visit(row, column, std::min(kChunk, length - column));
    }
  }
}

template <typename Stored>
M2O_INLINE const Stored* pixel_at(const Images& images, int64_t image, int64_t channel, int64_t row, int64_t column) {
  return static_cast<const Stored*>(images.data) + image * images.image_stride + channel * images.channel_stride +
         row * images.row_stride + column * images.column_stride;
}

// What a stored pixel is computed with: itself for float32 and float64, float32 for the half types, and int16 for
// uint8, because processors multiply and add up pairs of int16 in one instruction.
template <typename Stored>
using Loaded = std::conditional_t<sizeof(Stored) == 2, float, std::conditional_t<sizeof(Stored) == 1, int16_t, Stored>>;

// Copies n pixels that lie `step` elements apart; the constant steps of planar and interleaved images vectorise.
template <typename Stored, typename Value>
M2O_INLINE void load(const Stored* from, int64_t step, int64_t n, Value* to) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) {
      to[i] = static_cast<Value>(from[i]);
    }
  } else if (step == 3) {
    for (int64_t i = 0; i < n; ++i) {
      to[i] = static_cast<Value>(from[3 * i]);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      to[i] = static_cast<Value>(from[step * i]);
    }
  }
}

// The n pixels as a plain array: where they lie if they are one already, else loaded into `scratch`.
template <typename Stored>
M2O_INLINE const Loaded<Stored>* planar(const Stored* from, int64_t step, int64_t n, Loaded<Stored>* scratch) {
  if constexpr (std::is_same_v<Stored, Loaded<Stored>>) {
    if (step == 1) {
      return from;
    }
  }
  load(from, step, n, scratch);
  return scratch;
}

// ---------------------------------------------------------------------------------------------- foreground colour

// Sums over one image: content * channel for the three channels, then content * content. Floating-point sums run in
// float64 and in kVectors * 4 interleaved parts: that order of summation is fixed, and the parts stay in registers.
constexpr int kVectors = 2;
constexpr int64_t kSumLanes = 4 * kVectors;
struct FloatSums {
  Doubles part[4][kVectors] = {};
  double total(int which) const {
    double sum = 0;
    for (int64_t i = 0; i < kSumLanes; ++i) {
      sum += part[which][i / 4][i % 4];
    }
    return sum;
  }
};
struct IntegerSums {
  uint64_t sum[4] = {};
  double total(int which) const { return static_cast<double>(sum[which]); }
};

using FourFloats = float __attribute__((vector_size(16)));
template <typename Real>
using Four = std::conditional_t<std::is_same_v<Real, float>, FourFloats, Doubles>;

template <bool kHasContent, typename Real>
M2O_INLINE void add_products(FloatSums& sums, const Real* const channel[3], const Real* content, int64_t n) {
  using Values = Four<Real>;
  FloatSums s = sums;
  const auto add = [&](int v, Values red, Values green, Values blue, Values weight) M2O_INLINED {
    if constexpr (!kHasContent) {
      const Values brighter = red > green ? red : green;
      weight = brighter > blue ? brighter : blue;
    }
    const auto wide = __builtin_convertvector(weight, Doubles);
    s.part[0][v] += wide * __builtin_convertvector(red, Doubles);
    s.part[1][v] += wide * __builtin_convertvector(green, Doubles);
    s.part[2][v] += wide * __builtin_convertvector(blue, Doubles);
    s.part[3][v] += wide * wide;
  };
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    for (int k = 0; k < 3; ++k) {
      __builtin_prefetch(reinterpret_cast<const char*>(channel[k] + i) + kFetchAhead);
    }
    M2O_UNROLLED
    for (int v = 0; v < kVectors; ++v) {
      const auto four = [&](const Real* from) M2O_INLINED { return read_as<Values>(from + i + 4 * v); };
      add(v, four(channel[0]), four(channel[1]), four(channel[2]), kHasContent ? four(content) : Values{});
    }
  }
  for (int v = 0; i < n; i += 4, ++v) {
    const auto rest = [&](const Real* from) M2O_INLINED {
      Values values{};
      std::memcpy(&values, from + i, std::min<int64_t>(4, n - i) * sizeof(Real));
      return values;
    };
    add(v, rest(channel[0]), rest(channel[1]), rest(channel[2]), kHasContent ? rest(content) : Values{});
  }
  sums = s;
}

template <bool kHasContent>
M2O_INLINE void add_products(IntegerSums& sums, const int16_t* const channel[3], const int16_t* content, int64_t n) {
  const int16_t *red = channel[0], *green = channel[1], *blue = channel[2];
  int32_t sum[4] = {};
  for (int64_t i = 0; i < n; ++i) {
    const int16_t weight = kHasContent ? content[i] : std::max(std::max(red[i], green[i]), blue[i]);
    sum[0] += weight * red[i];
    sum[1] += weight * green[i];
    sum[2] += weight * blue[i];
    sum[3] += weight * weight;
  }
  for (int k = 0; k < 4; ++k) {
    sums.sum[k] += sum[k];
  }
}

// The least-squares colour, clamped to [0, 1]; black where there is no content, NaN where anything is not finite.
template <typename Sums, typename Color>
M2O_INLINE void write_color(const Sums& sums, Color* color) {
  const double square = sums.total(3);
  double fitted[3];
  bool finite = true;
  for (int k = 0; k < 3; ++k) {
    fitted[k] = sums.total(k) / (square == 0 ? 1.0 : square);
    finite = finite && std::isfinite(fitted[k]);
  }
  for (int k = 0; k < 3; ++k) {
    color[k] = finite ? static_cast<Color>(std::clamp(fitted[k], 0.0, 1.0)) : std::numeric_limits<Color>::quiet_NaN();
  }
}

template <typename Stored, bool kHasContent>
M2O_INLINE void fit_images(const Images& images, const Images* content, int64_t begin, int64_t end, void* colors) {
  using Sums = std::conditional_t<std::is_same_v<Stored, uint8_t>, IntegerSums, FloatSums>;
  using Color = std::conditional_t<std::is_same_v<Stored, double>, double, float>;
  Loaded<Stored> scratch[4][kChunk];
  const bool one_run = rows_follow_each_other(images) && (!kHasContent || rows_follow_each_other(*content));
  for (int64_t image = begin; image < end; ++image) {
    Sums sums;
    for_each_chunk(images, one_run, [&](int64_t row, int64_t column, int64_t n) M2O_INLINED {
      const Loaded<Stored>* channel[3];
      for (int k = 0; k < 3; ++k) {
        channel[k] = planar(pixel_at<Stored>(images, image, k, row, column), images.column_stride, n, scratch[k]);
      }
      const Loaded<Stored>* weight = nullptr;
      if constexpr (kHasContent) {
        weight = planar(pixel_at<Stored>(*content, image, 0, row, column), content->column_stride, n, scratch[3]);
      }
      add_products<kHasContent>(sums, channel, weight, n);
    });
    write_color(sums, static_cast<Color*>(colors) + 3 * image);
  }
}

using FitImages = void(const Images& images, const Images* content, int64_t begin, int64_t end, void* colors);

// One function for each pixel type, with everything above inlined.
#define M2O_FIT_IMAGES(NAME, STORED)                                                                                  \
  M2O_KERNEL void fit_##NAME(const Images& images, const Images* content, int64_t begin, int64_t end, void* colors) { \
    if (content) {                                                                                                    \
      fit_images<STORED, true>(images, content, begin, end, colors);                                                  \
    } else {                                                                                                          \
      fit_images<STORED, false>(images, content, begin, end, colors);                                                 \
    }                                                                                                                 \
  }
M2O_FIT_IMAGES(uint8, uint8_t)
M2O_FIT_IMAGES(float16, c10::Half)
M2O_FIT_IMAGES(bfloat16, c10::BFloat16)
M2O_FIT_IMAGES(float32, float)
M2O_FIT_IMAGES(float64, double)
#undef M2O_FIT_IMAGES

FitImages* fit_images_of(Pixel pixel) {
  switch (pixel) {
    case Pixel::uint8:
      return fit_uint8;
    case Pixel::float16:
      return fit_float16;
    case Pixel::bfloat16:
      return fit_bfloat16;
    case Pixel::float32:
      return fit_float32;
    default:
      return fit_float64;
  }
}

// ------------------------------------------------------------------------------------------------ quantised colours

// n pixels as float64.
M2O_INLINE void load_values(const Images& images, int64_t image, int64_t channel, int64_t row, int64_t column,
                            int64_t n, double* values) {
  const auto load_as = [&](auto stored) M2O_INLINED {
    load(pixel_at<decltype(stored)>(images, image, channel, row, column), images.column_stride, n, values);
  };
  switch (images.pixel) {
    case Pixel::uint8:
      load_as(uint8_t{});
      break;
    case Pixel::float16:
      load_as(c10::Half{});
      break;
    case Pixel::bfloat16:
      load_as(c10::BFloat16{});
      break;
    case Pixel::float32:
      load_as(float{});
      break;
    case Pixel::float64:
      load_as(double{});
      break;
  }
}

// Writes one cell number per pixel, red in the highest place: floor(value * steps), or the nearest integer (ties to
// even) if kRound, clamped to 0..top. The product is formed in float64, where it is exact for float32. Returns whether
// every value is finite; the others get a cell in range all the same.
template <bool kRound>
M2O_INLINE bool write_cells(const Images& images, int64_t image, int64_t row, int64_t column, int64_t n, double steps,
                            int32_t top, int32_t* cell) {
  double values[kChunk];
  if (images.pixel == Pixel::uint8) {
    steps /= 255;  // only ever rounded, and no n * steps / 255 is next to a tie
  }
  int32_t infinite = 0;
  std::fill(cell, cell + n, 0);
  for (int channel = 0; channel < 3; ++channel) {
    load_values(images, image, channel, row, column, n, values);
    for (int64_t i = 0; i < n; ++i) {
      infinite |= !(std::fabs(values[i]) <= std::numeric_limits<double>::max());
      double scaled = values[i] * steps;
      scaled = scaled > 0 ? scaled : 0;
      scaled = scaled < top ? scaled : top;
      cell[i] = cell[i] * (top + 1) + static_cast<int32_t>(kRound ? std::nearbyint(scaled) : scaled);
    }
  }
  return !infinite;
}

M2O_KERNEL bool write_bins(const Images& colors, int64_t column, int64_t n, int32_t bins, int32_t* cell) {
  return write_cells<false>(colors, 0, 0, column, n, bins, bins - 1, cell);
}

M2O_KERNEL bool write_codes(const Images& images, int64_t image, int64_t row, int64_t column, int64_t n, int32_t levels,
                            int32_t* code) {
  return write_cells<true>(images, image, row, column, n, levels - 1, levels - 1, code);
}

// The set of codes met in one image: a bit for each possible code.
class CodeSet {
 public:
  explicit CodeSet(int64_t codes) : words_((codes + 63) / 64) {}

  void insert(int32_t code) {
    uint64_t& word = words_[code >> 6];
    const uint64_t bit = uint64_t{1} << (code & 63);
    if (word & bit) {
      return;
    }
    word |= bit;
    members_.push_back(code);
  }

  int64_t size() const { return static_cast<int64_t>(members_.size()); }

  // Costs as much as there are members, not as there are possible codes.
  void clear() {
    for (const int32_t code : members_) {
      words_[code >> 6] = 0;
    }
    members_.clear();
  }

 private:
  std::vector<uint64_t> words_;
  std::vector<int32_t> members_;
};

[[noreturn]] void refuse(const char* op, const char* words) {
  throw std::invalid_argument(std::string(op) + ": " + words);
}

}  // namespace

void foreground_color(const Images& images, const Images* content, void* colors) {
  FitImages* fit = fit_images_of(images.pixel);
  torch::stable::parallel_for(0, images.count, images_per_thread(images),
                              [&](int64_t begin, int64_t end) { fit(images, content, begin, end, colors); });
}

void color_histogram(const char* op, const Images& colors, int64_t bins, const int64_t* group, int64_t group_stride,
                     int64_t groups, int64_t* counts) {
  const int64_t cells = bins * bins * bins;
  std::atomic<bool> finite{true}, grouped{true};
  std::mutex adding;
  // A share that is everything is counted where the counts belong; else the counts of a share are added up at its end,
  // as integers, so their order does not matter.
  const auto count_share = [&](int64_t begin, int64_t end) {
    const bool everything = begin == 0 && end == colors.width;
    std::vector<int64_t> own(everything ? 0 : groups * cells);
    int64_t* share = everything ? counts : own.data();
    int32_t cell[kChunk];
    for (int64_t first = begin; first < end; first += kChunk) {
      const int64_t n = std::min(kChunk, end - first);
      if (!write_bins(colors, first, n, static_cast<int32_t>(bins), cell)) {
        finite = false;
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = group ? group[(first + i) * group_stride] : 0;
        if (row < 0 || row >= groups) {
          grouped = false;
        } else {
          ++share[row * cells + cell[i]];
        }
      }
    }
    const std::lock_guard<std::mutex> lock(adding);
    for (size_t i = 0; i < own.size(); ++i) {
      counts[i] += own[i];
    }
  };
  torch::stable::parallel_for(0, colors.width, std::max(kPixelsPerThread, groups * cells), count_share);
  if (!finite) {
    refuse(op, "every value must be finite, got NaN or infinity");
  }
  if (!grouped) {
    refuse(op, "every group number must be in [0, num_groups)");
  }
}

void unique_color_count(const char* op, const Images& images, int64_t bits, int64_t* counts) {
  const auto levels = int32_t{1} << bits;
  const bool one_run = rows_follow_each_other(images);
  std::atomic<bool> finite{true};
  torch::stable::parallel_for(0, images.count, images_per_thread(images), [&](int64_t begin, int64_t end) {
    CodeSet met(int64_t{1} << (3 * bits));
    int32_t code[kChunk];
    for (int64_t image = begin; image < end; ++image) {
      for_each_chunk(images, one_run, [&](int64_t row, int64_t column, int64_t n) {
        if (!write_codes(images, image, row, column, n, levels, code)) {
          finite = false;
        }
        for (int64_t i = 0; i < n; ++i) {
          met.insert(code[i]);
        }
      });
      counts[image] = met.size();
      met.clear();
    }
  });
  if (!finite) {
    refuse(op, "every value must be finite, got NaN or infinity");
  }
}

}  // namespace m2o_fast
