// Normalise + affine + LeakyReLU on the GPU: the operators' CUDA side. The kernels are in adain_forward.cuh and
// adain_backward.cuh; the definition is adain_act_reference in m2o_fast/ops/adain.py.
#include "adain_cuda.h"

#include <cmath>
#include <tuple>

#include "adain_tensor.h"
#include "stable_torch.h"
#include "tensor_cuda.h"

namespace m2o_fast {
namespace {

// What both operators take. The tensors must outlive the call of the kernel.
AdainArguments as_arguments(const ImageShape& shape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                            const Tensor& mean, const Tensor& rstd, double slope, bool one_plus, Resample resample) {
  AdainArguments a{};
  a.x = x.const_data_ptr();
  a.gamma = plane_numbers(gamma, x);
  a.beta = plane_numbers(beta, x);
  a.mean = mean.mutable_data_ptr();
  a.rstd = rstd.mutable_data_ptr();
  a.batch = shape.batch;
  a.channels = shape.channels;
  a.plane = shape.plane();
  a.width = shape.width;
  a.resample = resample;
  a.dtype = element_type(x.scalar_type());
  a.slope = slope;
  a.one_plus = one_plus;
  a.channels_last = shape.format == MemoryFormat::ChannelsLast;
  return a;
}

std::tuple<Tensor, Tensor, Tensor> adain_act(Tensor x, Tensor gamma, Tensor beta, double eps, double slope,
                                             bool one_plus, int64_t resample) {
  const char* op = "adain_act";
  const ImageShape shape = check_input(op, x);
  check_eps(op, eps);
  const Resample change = as_resample(op, resample);
  check_affine(op, "gamma", gamma, x);
  check_affine(op, "beta", beta, x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = empty_like_input(x, resampled_shape(op, shape, change));
  Tensor mean = empty_mean(x), rstd = empty_statistics(x);
  if (x.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::fill_(rstd, 1 / std::sqrt(eps));
    return {y, mean, rstd};
  }
  const Tensor x_in_format = torch::stable::contiguous(x, shape.format);
  const Tensor readable_gamma = in_readable_type(gamma, x), readable_beta = in_readable_type(beta, x);
  AdainArguments a =
      as_arguments(shape, x_in_format, readable_gamma, readable_beta, mean, rstd, slope, one_plus, change);
  a.eps = eps;
  a.y = y.mutable_data_ptr();
  Scratch scratch(x);
  const char* error = adain_forward(a, std::ref(scratch), current_stream(x));
  require(error == nullptr, op, "CUDA: ", error);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> adain_act_backward(Tensor grad, Tensor x, Tensor gamma, Tensor beta, Tensor mean,
                                                      Tensor rstd, double slope, bool one_plus, int64_t resample) {
  const char* op = "adain_act_backward";
  const ImageShape shape = check_input(op, x);
  check_affine(op, "gamma", gamma, x);
  check_affine(op, "beta", beta, x);
  const Resample change = as_resample(op, resample);
  check_output_gradient(op, grad, x, resampled_shape(op, shape, change));
  check_mean(op, mean, x);
  check_statistics(op, "rstd", rstd, x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor grad_x = empty_like_input(x, shape), grad_gamma = empty_statistics(x), grad_beta = empty_statistics(x);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_gamma);
    torch::stable::zero_(grad_beta);
    return {grad_x, grad_gamma, grad_beta};
  }
  const Tensor x_in_format = torch::stable::contiguous(x, shape.format);
  const Tensor grad_in_format = torch::stable::contiguous(grad, shape.format);
  const Tensor readable_gamma = in_readable_type(gamma, x), readable_beta = in_readable_type(beta, x);
  const Tensor dense_mean = torch::stable::contiguous(mean), dense_rstd = torch::stable::contiguous(rstd);
  AdainArguments a =
      as_arguments(shape, x_in_format, readable_gamma, readable_beta, dense_mean, dense_rstd, slope, one_plus, change);
  a.grad = grad_in_format.const_data_ptr();
  a.grad_x = grad_x.mutable_data_ptr();
  a.grad_gamma = grad_gamma.mutable_data_ptr();
  a.grad_beta = grad_beta.mutable_data_ptr();
  Scratch scratch(x);
  const char* error = adain_backward(a, std::ref(scratch), current_stream(x));
  require(error == nullptr, op, "CUDA: ", error);
  return {grad_x, grad_gamma, grad_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CUDA, m) {
  m.impl("adain_act", TORCH_BOX(&adain_act));
  m.impl("adain_act_backward", TORCH_BOX(&adain_act_backward));
}

}  // namespace m2o_fast
