// How a colour is shared out among the cells around it; for the CPU and for CUDA, free of torch.
//
// The definition is soft_color_histogram_reference in m2o_fast/ops/soft_histogram.py.
#pragma once

#include <cstdint>

namespace m2o_fast {

// Where a value is among the centres of `bins` bins, the one of bin i being at (i + 1/2) / bins.
struct Place {
  int32_t lower, upper;  // the bins beside it; the same one at the upper end
  double share;          // of the upper bin; NaN for NaN
  bool moves;            // whether it is between the outermost centres, so that a change of it shows
};

constexpr Place place_of(double value, int32_t bins) {
  const double last = bins - 1;
  const double place = value * bins - 0.5;
  const double position = place < 0 ? 0 : place > last ? last : place;
  const int32_t lower = position == position ? static_cast<int32_t>(position) : 0;
  return {lower, lower + 1 < bins ? lower + 1 : lower, position - lower, place >= 0 && place <= last};
}

// Weights are added up as whole numbers of 2^-s, exactly and so in any order. s leaves room for `colors` times 1.
constexpr double units_in_one(int64_t colors) {
  double units = 4611686018427387904.0;  // 2^62
  for (; colors > 0; colors /= 2) {
    units /= 2;
  }
  return units;
}

constexpr int64_t in_units(double weight, double units) { return static_cast<int64_t>(weight * units + 0.5); }

// The places of a colour's red, green and blue, and what they say about the eight cells around it.
struct Corners {
  Place place[3];

  constexpr int32_t cell(int corner, int32_t bins) const {
    const int32_t red = corner & 4 ? place[0].upper : place[0].lower;
    const int32_t green = corner & 2 ? place[1].upper : place[1].lower;
    const int32_t blue = corner & 1 ? place[2].upper : place[2].lower;
    return (red * bins + green) * bins + blue;
  }
  // Of one channel at a corner: bit 2 of its number says whether red is the upper bin, 1 green, 0 blue.
  constexpr double share(int corner, int channel) const {
    return corner >> (2 - channel) & 1 ? place[channel].share : 1 - place[channel].share;
  }
  constexpr double weight(int corner) const { return share(corner, 0) * share(corner, 1) * share(corner, 2); }
  constexpr bool is_nan() const {
    const double sum = place[0].share + place[1].share + place[2].share;
    return sum != sum;
  }

  // The derivative by a channel of the sum over the corners of weight times grad.
  template <typename Real>
  constexpr double slope(const Real (&grad)[8], int channel, int32_t bins) const {
    if (!place[channel].moves) {
      return 0;
    }
    const int step = 4 >> channel, one = channel == 0 ? 1 : 0, other = channel == 2 ? 1 : 2;
    double sum = 0;
    for (int corner = 0; corner < 8; ++corner) {
      if (corner & step) {
        const double rise = static_cast<double>(grad[corner]) - static_cast<double>(grad[corner - step]);
        sum += rise * share(corner, one) * share(corner, other);
      }
    }
    return sum * bins;
  }
};

}  // namespace m2o_fast
