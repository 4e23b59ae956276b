// The histogram operators on CUDA tensors. The kernels are in histogram_fit.cu, histogram_count.cu and
// soft_histogram.cu.
#include "histogram_cuda.h"

#include <optional>
#include <stdexcept>
#include <string>

#include "histogram_tensor.h"
#include "stable_torch.h"
#include "tensor_cuda.h"

namespace m2o_fast {
namespace {

void require_success(const char* op, const char* error) { require(error == nullptr, op, "CUDA: ", error); }

// An int32 in which kernels note what is wrong with their input.
class Status {
 public:
  explicit Status(const Tensor& like) : bits_(torch::stable::new_zeros(like, {1}, ScalarType::Int)) {}

  int32_t* bits() { return bits_.mutable_data_ptr<int32_t>(); }

  // Waits for the kernels, since what they found has to be raised here and now.
  void raise(const char* op) {
    int32_t found = 0;
    require_success(op, read_status(bits(), current_stream(bits_), found));
    const std::string name(op);
    if (found & kNotFinite) {
      throw std::invalid_argument(name + ": every value must be finite, got NaN or infinity");
    }
    if (found & kWrongGroup) {
      throw std::invalid_argument(name + ": every group number must be in [0, num_groups)");
    }
  }

 private:
  Tensor bits_;
};

GroupedColors grouped_colors(const char* op, const Tensor& colors, int64_t bins, const std::optional<Tensor>& groups,
                             int64_t num_groups) {
  require_floating(op, "colors", colors);
  const Images view = colors_of(colors, op);
  require_cells(op, bins, num_groups);
  const Groups group = groups_of(groups, colors, op);
  return {view, group.number, group.stride, num_groups, static_cast<int32_t>(bins)};
}

Tensor run_foreground_color(Tensor images, std::optional<Tensor> content) {
  constexpr const char* op = "foreground_color";
  const Images view = images_of(images, op);
  const std::optional<Images> planes = content_of(content, images, view, op);
  const DeviceGuard guard(images.get_device_index());
  Tensor colors = torch::stable::new_empty(images, {view.count, 3}, color_type(view.pixel));
  Tensor workspace = torch::stable::new_empty(images, {foreground_color_workspace(view)}, ScalarType::Double);
  require_success(op, foreground_color_cuda(view, planes ? &*planes : nullptr, colors.mutable_data_ptr(),
                                            workspace.mutable_data_ptr<double>(), current_stream(images)));
  return colors;
}

Tensor run_color_histogram(Tensor colors, int64_t bins, std::optional<Tensor> groups, int64_t num_groups) {
  constexpr const char* op = "color_histogram";
  const GroupedColors a = grouped_colors(op, colors, bins, groups, num_groups);
  const DeviceGuard guard(colors.get_device_index());
  Tensor counts = torch::stable::new_zeros(colors, {num_groups, a.cells()}, ScalarType::Long);
  Status status(colors);
  require_success(op,
                  color_histogram_cuda(a, counts.mutable_data_ptr<int64_t>(), status.bits(), current_stream(colors)));
  status.raise(op);
  return counts;
}

Tensor run_unique_color_count(Tensor images, int64_t bits) {
  constexpr const char* op = "unique_color_count";
  const Images view = images_of(images, op);
  require_bits(op, bits);
  const DeviceGuard guard(images.get_device_index());
  const int32_t depth = static_cast<int32_t>(bits);
  Tensor counts = torch::stable::new_zeros(images, {view.count}, ScalarType::Long);
  Tensor sets = torch::stable::new_empty(images, {unique_color_workspace(view, depth)}, ScalarType::Int);
  Status status(images);
  require_success(op, unique_color_count_cuda(view, depth, counts.mutable_data_ptr<int64_t>(),
                                              static_cast<uint32_t*>(sets.mutable_data_ptr()), status.bits(),
                                              current_stream(images)));
  if (view.pixel != Pixel::uint8) {
    status.raise(op);
  }
  return counts;
}

Tensor run_soft_color_histogram(Tensor colors, int64_t bins, std::optional<Tensor> groups, int64_t num_groups) {
  constexpr const char* op = "soft_color_histogram";
  const GroupedColors a = grouped_colors(op, colors, bins, groups, num_groups);
  const DeviceGuard guard(colors.get_device_index());
  Tensor counts = torch::stable::new_empty(colors, {num_groups, a.cells()}, color_type(a.colors.pixel));
  Tensor units = torch::stable::new_zeros(colors, {num_groups * (a.cells() + 1)}, ScalarType::Long);
  std::optional<Status> status;
  if (groups) {
    status.emplace(colors);
  }
  require_success(op, soft_color_histogram_cuda(a, counts.mutable_data_ptr(), units.mutable_data_ptr<int64_t>(),
                                                status ? status->bits() : nullptr, current_stream(colors)));
  if (status) {
    status->raise(op);
  }
  return counts;
}

// The forward pass has raised for wrong groups already: here they give NaN, and nothing waits.
Tensor run_soft_color_histogram_backward(Tensor grad, Tensor colors, int64_t bins, std::optional<Tensor> groups) {
  constexpr const char* op = "soft_color_histogram_backward";
  const GroupedColors a = grouped_colors(op, colors, bins, groups, grad.dim() == 2 ? grad.size(0) : 1);
  require_soft_gradient(op, grad, colors, bins);
  const DeviceGuard guard(colors.get_device_index());
  const Tensor dense = torch::stable::contiguous(grad);
  Tensor grad_colors = torch::stable::new_empty(colors, {colors.size(0), 3}, colors.scalar_type());
  require_success(op, soft_color_histogram_backward_cuda(a, dense.const_data_ptr(), grad_colors.mutable_data_ptr(),
                                                         current_stream(colors)));
  return grad_colors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CUDA, m) {
  m.impl("foreground_color", TORCH_BOX(&run_foreground_color));
  m.impl("color_histogram", TORCH_BOX(&run_color_histogram));
  m.impl("unique_color_count", TORCH_BOX(&run_unique_color_count));
  m.impl("soft_color_histogram", TORCH_BOX(&run_soft_color_histogram));
  m.impl("soft_color_histogram_backward", TORCH_BOX(&run_soft_color_histogram_backward));
}

}  // namespace m2o_fast
