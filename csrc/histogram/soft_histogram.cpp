// Soft colour histograms on the CPU. The definition is soft_color_histogram_reference in
// m2o_fast/ops/soft_histogram.py.
#include "soft_histogram.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "histogram_tensor.h"
#include "stable_torch.h"
#include "tensor_cpu.h"

namespace m2o_fast {
namespace {

constexpr int64_t kColorsPerThread = 2048;

// Colours as the kernels read them.
template <typename Wide>
struct Colors {
  const Wide* data;
  int64_t count, stride, channel_stride;

  Corners corners(int64_t i, int32_t bins) const {
    const Wide* color = data + i * stride;
    return {
        {place_of(color[0], bins), place_of(color[channel_stride], bins), place_of(color[2 * channel_stride], bins)}};
  }
};

// The 16-bit types are widened first: a few numbers for each image.
Tensor in_wide_type(const Tensor& colors) { return in_type(colors, statistics_type(colors.scalar_type())); }

template <typename Wide>
Colors<Wide> as_colors(const Tensor& wide) {
  return {static_cast<const Wide*>(wide.const_data_ptr()), wide.size(0), wide.stride(0), wide.stride(1)};
}

[[noreturn]] void refuse_group(const char* op) {
  throw std::invalid_argument(std::string(op) + ": every group number must be in [0, num_groups)");
}

// What a set of colours adds up to: whole numbers, so sets may be put together in any order.
struct Sums {
  std::vector<int64_t> units;  // of each cell
  std::vector<char> spoilt;    // whether a group has met a NaN

  Sums(int64_t groups, int64_t cells) : units(groups * cells), spoilt(groups) {}

  void add(const Sums& other) {
    for (size_t i = 0; i < other.units.size(); ++i) {
      units[i] += other.units[i];
    }
    for (size_t i = 0; i < other.spoilt.size(); ++i) {
      spoilt[i] |= other.spoilt[i];
    }
  }
};

template <typename Wide>
void count(const Colors<Wide>& colors, int32_t bins, const Groups& groups, int64_t num_groups, Wide* counts) {
  const int64_t cells = int64_t{bins} * bins * bins;
  const double units = units_in_one(colors.count);
  Sums total(num_groups, cells);
  std::atomic<bool> grouped{true};
  std::mutex adding;
  const auto count_share = [&](int64_t begin, int64_t end) {
    const bool everything = begin == 0 && end == colors.count;  // then it is held once only
    Sums own(everything ? 0 : num_groups, cells);
    Sums& share = everything ? total : own;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = groups.number ? groups.number[i * groups.stride] : 0;
      if (group < 0 || group >= num_groups) {
        grouped = false;
        continue;
      }
      const Corners corners = colors.corners(i, bins);
      if (corners.is_nan()) {
        share.spoilt[group] = 1;
        continue;
      }
      int64_t* histogram = share.units.data() + group * cells;
      for (int corner = 0; corner < 8; ++corner) {
        histogram[corners.cell(corner, bins)] += in_units(corners.weight(corner), units);
      }
    }
    const std::lock_guard<std::mutex> lock(adding);
    total.add(own);
  };
  torch::stable::parallel_for(0, colors.count, std::max(kColorsPerThread, num_groups * cells), count_share);
  if (!grouped) {
    refuse_group("soft_color_histogram");
  }
  for (int64_t i = 0; i < num_groups * cells; ++i) {
    const double sum = static_cast<double>(total.units[i]) / units;
    counts[i] = total.spoilt[i / cells] ? std::numeric_limits<Wide>::quiet_NaN() : static_cast<Wide>(sum);
  }
}

template <typename Wide>
void differentiate(const Wide* grad, const Colors<Wide>& colors, int32_t bins, const Groups& groups, int64_t num_groups,
                   Wide* grad_colors) {
  const int64_t cells = int64_t{bins} * bins * bins;
  std::atomic<bool> grouped{true};
  torch::stable::parallel_for(0, colors.count, kColorsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = groups.number ? groups.number[i * groups.stride] : 0;
      if (group < 0 || group >= num_groups) {
        grouped = false;
        continue;
      }
      const Corners corners = colors.corners(i, bins);
      Wide around[8];
      for (int corner = 0; corner < 8; ++corner) {
        around[corner] = grad[group * cells + corners.cell(corner, bins)];
      }
      for (int channel = 0; channel < 3; ++channel) {
        grad_colors[3 * i + channel] = static_cast<Wide>(corners.slope(around, channel, bins));
      }
    }
  });
  if (!grouped) {
    refuse_group("soft_color_histogram_backward");
  }
}

Tensor soft_color_histogram(Tensor colors, int64_t bins, std::optional<Tensor> groups, int64_t num_groups) {
  constexpr const char* op = "soft_color_histogram";
  require_floating(op, "colors", colors);
  colors_of(colors, op);
  require_cells(op, bins, num_groups);
  const Groups group = groups_of(groups, colors, op);
  const Tensor wide = in_wide_type(colors);
  Tensor counts = torch::stable::new_empty(colors, {num_groups, bins * bins * bins}, wide.scalar_type());
  if (wide.scalar_type() == ScalarType::Double) {
    count(as_colors<double>(wide), bins, group, num_groups, counts.mutable_data_ptr<double>());
  } else {
    count(as_colors<float>(wide), bins, group, num_groups, counts.mutable_data_ptr<float>());
  }
  return counts;
}

Tensor soft_color_histogram_backward(Tensor grad, Tensor colors, int64_t bins, std::optional<Tensor> groups) {
  constexpr const char* op = "soft_color_histogram_backward";
  require_floating(op, "colors", colors);
  colors_of(colors, op);
  require_soft_gradient(op, grad, colors, bins);
  const Groups group = groups_of(groups, colors, op);
  const Tensor wide = in_wide_type(colors), dense = torch::stable::contiguous(grad);
  Tensor grad_colors = torch::stable::new_empty(colors, {colors.size(0), 3}, wide.scalar_type());
  if (wide.scalar_type() == ScalarType::Double) {
    differentiate(dense.const_data_ptr<double>(), as_colors<double>(wide), bins, group, grad.size(0),
                  grad_colors.mutable_data_ptr<double>());
  } else {
    differentiate(dense.const_data_ptr<float>(), as_colors<float>(wide), bins, group, grad.size(0),
                  grad_colors.mutable_data_ptr<float>());
  }
  return in_type(grad_colors, colors.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!runs_here()) {
    return;
  }
  m.impl("soft_color_histogram", TORCH_BOX(&soft_color_histogram));
  m.impl("soft_color_histogram_backward", TORCH_BOX(&soft_color_histogram_backward));
}

}  // namespace m2o_fast
