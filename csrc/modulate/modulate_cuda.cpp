// Scale, bias, LeakyReLU and scale on the GPU: the operators' CUDA side. The kernels are in modulate.cu; the definition
// is scale_bias_act_reference in m2o_fast/ops/modulate.py.
#include "modulate_cuda.h"

#include <tuple>

#include "modulate_tensor.h"
#include "stable_torch.h"
#include "tensor_cuda.h"

namespace m2o_fast {
namespace {

// The kernels read vectors in the dtype of x or of the sums and with any strides.
ModulateVectors in_readable_types(const ModulateVectors& vectors, const Tensor& x) {
  const auto convert = [&](const OptionalTensor& vector) {
    return vector ? OptionalTensor(in_readable_type(*vector, x)) : vector;
  };
  return {convert(vectors.scale), convert(vectors.bias), convert(vectors.next)};
}

PlaneNumbers as_numbers(const OptionalTensor& vector, const Tensor& x) {
  return vector ? plane_numbers(*vector, x) : PlaneNumbers{};
}

// What both operators take. The tensors must outlive the call of the kernel.
ModulateArguments as_arguments(const ImageShape& shape, const Tensor& x, const Tensor& out,
                               const ModulateVectors& vectors, double slope) {
  ModulateArguments a{};
  a.x = x.const_data_ptr();
  a.out = out.mutable_data_ptr();
  a.scale = as_numbers(vectors.scale, x);
  a.bias = as_numbers(vectors.bias, x);
  a.next = as_numbers(vectors.next, x);
  a.batch = shape.batch;
  a.channels = shape.channels;
  a.plane = shape.plane();
  a.dtype = element_type(x.scalar_type());
  a.slope = slope;
  a.channels_last = shape.format == MemoryFormat::ChannelsLast;
  return a;
}

Tensor scale_bias_act(Tensor x, OptionalTensor scale, OptionalTensor bias, OptionalTensor next_scale, double slope) {
  const char* op = "scale_bias_act";
  const ModulateVectors vectors{scale, bias, next_scale};
  const ImageShape shape = check_modulate(op, x, vectors);
  const DeviceGuard guard(x.get_device_index());
  const Tensor y = empty_like_input(x, shape);
  if (x.numel() == 0) {
    return y;
  }
  const Tensor x_in_format = torch::stable::contiguous(x, shape.format);
  const ModulateVectors readable = in_readable_types(vectors, x);
  const char* error = modulate_forward(as_arguments(shape, x_in_format, y, readable, slope), current_stream(x));
  require(error == nullptr, op, "CUDA: ", error);
  return y;
}

// Where the gradient of a vector goes; nullptr if there is no such vector.
void* place(const OptionalTensor& vector, const Tensor& gradient) {
  return vector ? gradient.mutable_data_ptr() : nullptr;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_bias_act_backward(Tensor grad, Tensor x, OptionalTensor scale,
                                                                   OptionalTensor bias, OptionalTensor next_scale,
                                                                   double slope) {
  const char* op = "scale_bias_act_backward";
  const ModulateVectors vectors{scale, bias, next_scale};
  const ImageShape shape = check_modulate(op, x, vectors);
  check_gradient(op, grad, x);
  const DeviceGuard guard(x.get_device_index());
  Tensor grad_x = empty_like_input(x, shape), grad_scale = empty_sums(scale, x), grad_bias = empty_sums(bias, x),
         grad_next = empty_sums(next_scale, x);
  if (x.numel() == 0) {
    for (Tensor* sums : {&grad_scale, &grad_bias, &grad_next}) {
      torch::stable::zero_(*sums);
    }
    return {grad_x, grad_scale, grad_bias, grad_next};
  }
  const Tensor x_in_format = torch::stable::contiguous(x, shape.format);
  const Tensor grad_in_format = torch::stable::contiguous(grad, shape.format);
  const ModulateVectors readable = in_readable_types(vectors, x);
  ModulateArguments a = as_arguments(shape, x_in_format, grad_x, readable, slope);
  a.grad = grad_in_format.const_data_ptr();
  a.gradients[0] = place(scale, grad_scale);
  a.gradients[1] = place(bias, grad_bias);
  a.gradients[2] = place(next_scale, grad_next);
  Scratch scratch(x);
  const char* error = modulate_backward(a, std::ref(scratch), current_stream(x));
  require(error == nullptr, op, "CUDA: ", error);
  return {grad_x, grad_scale, grad_bias, grad_next};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CUDA, m) {
  m.impl("scale_bias_act", TORCH_BOX(&scale_bias_act));
  m.impl("scale_bias_act_backward", TORCH_BOX(&scale_bias_act_backward));
}

}  // namespace m2o_fast
