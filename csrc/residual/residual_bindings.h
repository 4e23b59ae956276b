// The residual family's operators but for their kernels: argument checks, outputs, memory formats. The CPU and the CUDA
// library each instantiate them with a Device, which has run(const QuadCall&, x) and run(const MergeCall&, x) for
// tensors where x is.
#pragma once

#include <tuple>

#include "residual_call.h"
#include "stable_torch.h"
#include "tensor.h"

namespace m2o_fast {

// N, C, H, W
using Sizes = std::array<int64_t, 4>;

inline Sizes sizes_of(const ImageShape& shape) { return {shape.batch, shape.channels, shape.height, shape.width}; }
inline Sizes upsampled(const Sizes& s) { return {s[0], s[1], 2 * s[2], 2 * s[3]}; }
inline Sizes downsampled(const Sizes& s) { return {s[0], s[1], s[2] / 2, s[3] / 2}; }

inline void require_even(const char* op, const char* name, const Tensor& tensor) {
  require(tensor.size(2) % 2 == 0 && tensor.size(3) % 2 == 0, op, name, " must have even height and width, got ",
          words_of_shape(tensor));
}

// That `tensor` has these sizes, and the dtype and the device of x.
inline void check_partner(const char* op, const char* name, const Tensor& tensor, const Sizes& sizes, const Tensor& x) {
  bool fits = tensor.dim() == 4;
  for (int dim = 0; fits && dim < 4; ++dim) {
    fits = tensor.size(dim) == sizes[dim];
  }
  require(fits, op, name, " must be [", sizes[0], ", ", sizes[1], ", ", sizes[2], ", ", sizes[3], "], got ",
          words_of_shape(tensor));
  require(tensor.scalar_type() == x.scalar_type(), op, name, " must be ", torch::headeronly::toString(x.scalar_type()),
          " as its partner, got ", torch::headeronly::toString(tensor.scalar_type()));
  require_device(op, name, tensor, x);
}

inline Tensor empty_images(const Sizes& sizes, const Tensor& like, MemoryFormat format) {
  return empty_tensor(sizes, like.scalar_type(), like, format);
}

inline Tensor empty_numbers(const Tensor& like) { return empty_tensor<1>({0}, like.scalar_type(), like); }

inline QuadShape quad_shape(const Sizes& coarse, MemoryFormat format) {
  if (format == MemoryFormat::ChannelsLast) {
    return {coarse[0] * coarse[2], coarse[3], coarse[1], true};
  }
  return {coarse[0] * coarse[1] * coarse[2], coarse[3], 1, false};
}

inline QuadCall quad_call(QuadOperation operation, const Tensor& x, const Sizes& coarse, MemoryFormat format) {
  QuadCall call{};
  call.operation = operation;
  call.dtype = element_type(x.scalar_type());
  call.shape = quad_shape(coarse, format);
  return call;
}

// y = (a + b) * scale, all three laid out alike; b may be missing.
template <typename Device>
void merge(const Tensor& a, const void* b, const Tensor& y, double scale) {
  if (y.numel() > 0) {
    const ElementType dtype = element_type(y.scalar_type());
    Device::run(MergeCall{dtype, y.numel(), a.const_data_ptr(), b, y.mutable_data_ptr(), scale}, y);
  }
}

template <typename Device>
Tensor residual_merge(Tensor a, Tensor b, double scale, int64_t resample) {
  const char* op = "residual_merge";
  const ImageShape shape = check_input(op, a);
  const Sizes sizes = sizes_of(shape);
  const Resample how = as_resample(op, resample);
  if (how == Resample::up2) {
    require_even(op, "a", a);
  }
  const Sizes b_sizes = how == Resample::up2 ? downsampled(sizes) : how == Resample::down2 ? upsampled(sizes) : sizes;
  check_partner(op, "b", b, b_sizes, a);
  const Tensor dense_a = in_format(a, shape.format);
  const Tensor dense_b = in_format(b, shape.format);
  const Tensor y = empty_images(sizes, a, shape.format);
  if (how == Resample::none) {
    merge<Device>(dense_a, dense_b.const_data_ptr(), y, scale);
    return y;
  }
  if (y.numel() == 0) {
    return y;
  }
  const bool up = how == Resample::up2;
  QuadCall call =
      quad_call(up ? QuadOperation::merge_up2 : QuadOperation::merge_down2, a, up ? b_sizes : sizes, shape.format);
  call.fine = (up ? dense_a : dense_b).const_data_ptr();
  call.coarse = (up ? dense_b : dense_a).const_data_ptr();
  (up ? call.fine_out : call.coarse_out) = y.mutable_data_ptr();
  call.scale = scale;
  Device::run(call, a);
  return y;
}

template <typename Device>
std::tuple<Tensor, Tensor> residual_merge_backward(Tensor grad, double scale, int64_t resample, bool need_a) {
  const char* op = "residual_merge_backward";
  const ImageShape shape = check_input(op, grad);
  const Sizes sizes = sizes_of(shape);
  const Tensor dense = in_format(grad, shape.format);
  const Resample how = as_resample(op, resample);
  if (how == Resample::none) {
    const Tensor scaled = empty_images(sizes, grad, shape.format);
    merge<Device>(dense, nullptr, scaled, scale);
    return {scaled, empty_numbers(grad)};
  }
  const bool up = how == Resample::up2;
  if (up) {
    require_even(op, "grad", grad);
  }
  const Sizes b_sizes = up ? downsampled(sizes) : upsampled(sizes);
  const Tensor grad_a = need_a ? empty_images(sizes, grad, shape.format) : empty_numbers(grad);
  const Tensor grad_b = empty_images(b_sizes, grad, shape.format);
  if (grad.numel() == 0) {
    return {grad_a, grad_b};
  }
  QuadCall call = quad_call(up ? QuadOperation::backward_up2 : QuadOperation::backward_down2, grad,
                            up ? b_sizes : sizes, shape.format);
  (up ? call.fine : call.coarse) = dense.const_data_ptr();
  (up ? call.fine_out : call.coarse_out) = need_a ? grad_a.mutable_data_ptr() : nullptr;
  (up ? call.coarse_out : call.fine_out) = grad_b.mutable_data_ptr();
  call.scale = scale;
  Device::run(call, grad);
  return {grad_a, grad_b};
}

template <typename Device>
Tensor leaky_relu_down2(Tensor x, double slope) {
  const char* op = "leaky_relu_down2";
  const ImageShape shape = check_input(op, x);
  require_even(op, "x", x);
  const Sizes coarse = downsampled(sizes_of(shape));
  const Tensor dense = in_format(x, shape.format);
  const Tensor y = empty_images(coarse, x, shape.format);
  if (y.numel() == 0) {
    return y;
  }
  QuadCall call = quad_call(QuadOperation::leaky, x, coarse, shape.format);
  call.fine = dense.const_data_ptr();
  call.coarse_out = y.mutable_data_ptr();
  call.slope = slope;
  Device::run(call, x);
  return y;
}

template <typename Device>
Tensor leaky_relu_down2_backward(Tensor grad, Tensor x, double slope) {
  const char* op = "leaky_relu_down2_backward";
  const ImageShape shape = check_input(op, x);
  require_even(op, "x", x);
  const Sizes coarse = downsampled(sizes_of(shape));
  check_partner(op, "grad", grad, coarse, x);
  const Tensor dense = in_format(x, shape.format);
  const Tensor dense_grad = in_format(grad, shape.format);
  const Tensor grad_x = empty_images(sizes_of(shape), x, shape.format);
  if (grad_x.numel() == 0) {
    return grad_x;
  }
  QuadCall call = quad_call(QuadOperation::leaky_backward, x, coarse, shape.format);
  call.fine = dense.const_data_ptr();
  call.coarse = dense_grad.const_data_ptr();
  call.fine_out = grad_x.mutable_data_ptr();
  call.slope = slope;
  Device::run(call, x);
  return grad_x;
}

template <typename Device>
Tensor leaky_relu_down2_tangent(Tensor along, Tensor x, double slope) {
  const char* op = "leaky_relu_down2_tangent";
  const ImageShape shape = check_input(op, x);
  require_even(op, "x", x);
  check_partner(op, "along", along, sizes_of(shape), x);
  const Sizes coarse = downsampled(sizes_of(shape));
  const Tensor dense = in_format(x, shape.format);
  const Tensor dense_along = in_format(along, shape.format);
  const Tensor y = empty_images(coarse, x, shape.format);
  if (y.numel() == 0) {
    return y;
  }
  QuadCall call = quad_call(QuadOperation::leaky_tangent, x, coarse, shape.format);
  call.fine = dense.const_data_ptr();
  call.along = dense_along.const_data_ptr();
  call.coarse_out = y.mutable_data_ptr();
  call.slope = slope;
  Device::run(call, x);
  return y;
}

// Registers all operators of the family: to be called inside STABLE_TORCH_LIBRARY_IMPL, whose `m` is handed over.
#define M2O_REGISTER_RESIDUAL(m, Device)                                              \
  m.impl("residual_merge", TORCH_BOX(&residual_merge<Device>));                       \
  m.impl("residual_merge_backward", TORCH_BOX(&residual_merge_backward<Device>));     \
  m.impl("leaky_relu_down2", TORCH_BOX(&leaky_relu_down2<Device>));                   \
  m.impl("leaky_relu_down2_backward", TORCH_BOX(&leaky_relu_down2_backward<Device>)); \
  m.impl("leaky_relu_down2_tangent", TORCH_BOX(&leaky_relu_down2_tangent<Device>))

}  // namespace m2o_fast
