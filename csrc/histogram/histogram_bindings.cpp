// The histogram functions as torch operators on CPU tensors and as entry points for numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <optional>

#include "common.h"
#include "histogram.h"
#include "histogram_tensor.h"
#include "stable_torch.h"
#include "tensor.h"

namespace py = pybind11;
namespace m2o_fast {
namespace {

// ----------------------------------------------------------------------------------------------------- torch tensors

Tensor foreground_color_cpu(const Tensor& images, const std::optional<Tensor>& content) {
  constexpr const char* op = "foreground_color";
  const Images view = images_of(images, op);
  const std::optional<Images> planes = content_of(content, images, view, op);
  Tensor colors = torch::stable::new_empty(images, {view.count, 3}, color_type(view.pixel));
  foreground_color(view, planes ? &*planes : nullptr, colors.mutable_data_ptr());
  return colors;
}

Tensor color_histogram_cpu(const Tensor& colors, int64_t bins, const std::optional<Tensor>& groups,
                           int64_t num_groups) {
  constexpr const char* op = "color_histogram";
  require_floating(op, "colors", colors);
  const Images pixels = colors_of(colors, op);
  require_cells(op, bins, num_groups);
  const Groups group = groups_of(groups, colors, op);
  Tensor counts = torch::stable::new_zeros(colors, {num_groups, bins * bins * bins}, ScalarType::Long);
  color_histogram(op, pixels, bins, group.number, group.stride, num_groups, counts.mutable_data_ptr<int64_t>());
  return counts;
}

Tensor unique_color_count_cpu(const Tensor& images, int64_t bits) {
  constexpr const char* op = "unique_color_count";
  const Images view = images_of(images, op);
  require_bits(op, bits);
  Tensor counts = torch::stable::new_empty(images, {view.count}, ScalarType::Long);
  unique_color_count(op, view, bits, counts.mutable_data_ptr<int64_t>());
  return counts;
}

// ------------------------------------------------------------------------------------------------------ numpy arrays

Pixel pixel_of(const py::array& array, const char* op) {
  if (py::isinstance<py::array_t<uint8_t>>(array)) {
    return Pixel::uint8;
  }
  if (py::isinstance<py::array_t<float>>(array)) {
    return Pixel::float32;
  }
  if (py::isinstance<py::array_t<double>>(array)) {
    return Pixel::float64;
  }
  if (array.dtype().kind() == 'f' && array.itemsize() == 2) {
    return Pixel::float16;
  }
  throw py::type_error(std::string(op) + ": needs a uint8 or floating-point array");
}

// The stride of an axis in elements.
int64_t stride_of(const py::array& array, int axis, const char* op) {
  require(array.strides(axis) % array.itemsize() == 0, op, "needs strides that are multiples of the item size");
  return array.strides(axis) / array.itemsize();
}

// [N, H, W, 3]
Images images_of(const py::array& images, const char* op) {
  require(images.ndim() == 4 && images.shape(3) == 3, op, "needs images of shape [N, H, W, 3]");
  return {images.data(),           pixel_of(images, op),     images.shape(0),          images.shape(1),
          images.shape(2),         stride_of(images, 0, op), stride_of(images, 3, op), stride_of(images, 1, op),
          stride_of(images, 2, op)};
}

py::array foreground_color_numpy(const py::array& images, const std::optional<py::array>& content) {
  constexpr const char* op = "foreground_color_numpy";
  const Images view = images_of(images, op);
  std::optional<Images> planes;
  if (content) {
    require(content->ndim() == 3 && content->shape(0) == view.count && content->shape(1) == view.height &&
                content->shape(2) == view.width && pixel_of(*content, op) == view.pixel,
            op, "needs content of shape [N, H, W] and of the images' dtype");
    planes = {content->data(),
              view.pixel,
              view.count,
              view.height,
              view.width,
              stride_of(*content, 0, op),
              0,
              stride_of(*content, 1, op),
              stride_of(*content, 2, op)};
  }
  const auto dtype = view.pixel == Pixel::float64 ? py::dtype::of<double>() : py::dtype::of<float>();
  py::array colors(dtype, {view.count, int64_t{3}});
  void* written = colors.mutable_data();
  {
    const py::gil_scoped_release others_may_run;
    foreground_color(view, planes ? &*planes : nullptr, written);
  }
  return colors;
}

py::array color_histogram_numpy(const py::array& colors, int64_t bins,
                                const std::optional<py::array_t<int64_t, py::array::c_style>>& groups,
                                int64_t num_groups) {
  constexpr const char* op = "color_histogram_numpy";
  require(colors.ndim() == 2 && colors.shape(1) == 3, op, "needs colours of shape [N, 3]");
  require_cells(op, bins, num_groups);
  const int64_t count = colors.shape(0);
  require(!groups || (groups->ndim() == 1 && groups->shape(0) == count), op, "needs int64 groups of shape [N]");
  const Images pixels = {colors.data(),           pixel_of(colors, op), 1, 1, count, 0, stride_of(colors, 1, op), 0,
                         stride_of(colors, 0, op)};
  require(pixels.pixel != Pixel::uint8, op, "needs a floating-point array");
  py::array_t<int64_t> counts({num_groups, bins * bins * bins});
  const int64_t* group = groups ? groups->data() : nullptr;
  int64_t* written = counts.mutable_data();
  {
    const py::gil_scoped_release others_may_run;
    std::memset(written, 0, sizeof(int64_t) * static_cast<size_t>(counts.size()));
    color_histogram(op, pixels, bins, group, 1, num_groups, written);
  }
  return counts;
}

py::array unique_color_count_numpy(const py::array& images, int64_t bits) {
  constexpr const char* op = "unique_color_count_numpy";
  const Images view = images_of(images, op);
  require_bits(op, bits);
  py::array_t<int64_t> counts(view.count);
  int64_t* written = counts.mutable_data();
  {
    const py::gil_scoped_release others_may_run;
    unique_color_count(op, view, bits, written);
  }
  return counts;
}

}  // namespace

void register_histogram(py::module_& module) {
  module.def("foreground_color", &foreground_color_numpy, py::arg("images"), py::arg("content"),
             "See m2o_fast.ops.foreground_color_numpy.");
  module.def("color_histogram", &color_histogram_numpy, py::arg("colors"), py::arg("bins"), py::arg("groups"),
             py::arg("num_groups"), "See m2o_fast.ops.color_histogram_numpy.");
  module.def("unique_color_count", &unique_color_count_numpy, py::arg("images"), py::arg("bits"),
             "See m2o_fast.ops.unique_color_count_numpy.");
}

}  // namespace m2o_fast

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!m2o_fast::runs_here()) {
    return;
  }
  m.impl("foreground_color", TORCH_BOX(&m2o_fast::foreground_color_cpu));
  m.impl("color_histogram", TORCH_BOX(&m2o_fast::color_histogram_cpu));
  m.impl("unique_color_count", TORCH_BOX(&m2o_fast::unique_color_count_cpu));
}
