// Normalise + affine + LeakyReLU on the CPU. The definition is adain_act_reference in m2o_fast/ops/adain.py.

#include <tuple>

#include "adain_resampled.h"
#include "adain_tensor.h"
#include "stable_torch.h"
#include "tensor_cpu.h"

namespace m2o_fast {
namespace {

template <typename T>
M2O_KERNEL void run_forward(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  forward_planes<PlaneWriter<T>>(p, begin, end);
}
template <typename T>
M2O_KERNEL void run_backward(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  backward_planes<PlaneGradient<T>>(p, begin, end);
}
template <typename T>
M2O_KERNEL void run_forward(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  forward_rows<RowWriter<T>>(p, range, scratch);
}
template <typename T>
M2O_KERNEL void run_backward(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  backward_rows<RowGradient<T>>(p, range, scratch);
}

// channels_last: whole rows, in the order of memory, unless there are fewer images than threads.
int64_t range_width(const ImageShape& shape) {
  const int64_t threads = torch::stable::get_num_threads();
  if (shape.batch >= threads) {
    return shape.channels;
  }
  const int64_t width = ceil_div(shape.batch * shape.channels, threads);
  return ceil_div(width, kTiledChannels) * kTiledChannels;
}

template <typename T, typename Run>
void for_ranges(const ImageShape& shape, const Run& run) {
  const int64_t width = range_width(shape);
  const int64_t ranges = width == 0 ? 0 : ceil_div(shape.channels, width);
  torch::stable::parallel_for(
      0, shape.batch * ranges, grain_size(shape.plane() * width), [&](int64_t begin, int64_t end) {
        RowScratch<T> scratch(width);
        for (int64_t at = begin; at < end; ++at) {
          const int64_t first = at % ranges * width;
          run(ChannelRange{at / ranges, first, std::min(first + width, shape.channels)}, scratch);
        }
      });
}

// Calls run(planes' begin, end) or run(range, scratch), as the layout demands.
template <typename T, typename Run>
void in_parallel(const AdainProblem<T>& p, const ImageShape& shape, const Run& run) {
  if (shape.format == MemoryFormat::ChannelsLast) {
    for_ranges<T>(shape, run);
  } else {
    torch::stable::parallel_for(0, shape.batch * shape.channels, grain_size(p.plane), run);
  }
}

template <typename T>
void forward(const AdainProblem<T>& p, const ImageShape& shape) {
  if (p.resample == Resample::none) {
    in_parallel(p, shape, [&](auto&&... part) { run_forward(p, part...); });
  } else {
    in_parallel(p, shape, [&](auto&&... part) { run_forward_resampled(p, part...); });
  }
}

template <typename T>
void backward(const AdainProblem<T>& p, const ImageShape& shape) {
  if (p.resample == Resample::none) {
    in_parallel(p, shape, [&](auto&&... part) { run_backward(p, part...); });
  } else {
    in_parallel(p, shape, [&](auto&&... part) { run_backward_resampled(p, part...); });
  }
}

template <typename Wide>
PlaneNumbers<Wide> as_affine(const Tensor& tensor) {
  const bool per_sample = tensor.dim() == 2;
  return {static_cast<const Wide*>(tensor.const_data_ptr()), per_sample ? tensor.stride(0) : 0,
          tensor.stride(per_sample ? 1 : 0)};
}

// What the two operators have in common. gamma and beta are of the type of the sums; x and out are in the format of
// shape, which is that of x.
template <typename T>
AdainProblem<T> as_problem(const ImageShape& shape, const Tensor& x, const Tensor& out, const Tensor& gamma,
                           const Tensor& beta, double slope, bool one_plus, Resample resample) {
  using Wide = typename Simd<T>::Wide;
  AdainProblem<T> p{};
  p.channels = shape.channels;
  p.plane = shape.plane();
  p.height = shape.height;
  p.width = shape.width;
  p.resample = resample;
  p.inverse_plane = 1.0 / static_cast<double>(std::max<int64_t>(1, p.plane));
  p.x = static_cast<const T*>(x.const_data_ptr());
  p.out = static_cast<T*>(out.mutable_data_ptr());
  p.gamma = as_affine<Wide>(gamma);
  p.beta = as_affine<Wide>(beta);
  p.slope = static_cast<Wide>(slope);
  p.one_plus = one_plus;
  const int64_t bytes = out.numel() * static_cast<int64_t>(sizeof(T));
  const bool rows_are_aligned = shape.channels * sizeof(T) % 16 == 0 && is_aligned(p.out);
  p.streamed = bytes >= kStreamedBytes && (shape.format == MemoryFormat::Contiguous || rows_are_aligned);
  return p;
}

template <typename T>
typename Simd<T>::Wide* outputs(const Tensor& statistics) {
  return static_cast<typename Simd<T>::Wide*>(statistics.mutable_data_ptr());
}

// The backward kernels only read mean and rstd, which share their fields with the outputs of forward.
template <typename T>
typename Simd<T>::Wide* inputs(const Tensor& statistics) {
  return const_cast<typename Simd<T>::Wide*>(static_cast<const typename Simd<T>::Wide*>(statistics.const_data_ptr()));
}

std::tuple<Tensor, Tensor, Tensor> adain_act(Tensor x, Tensor gamma, Tensor beta, double eps, double slope,
                                             bool one_plus, int64_t resample) {
  const char* op = "adain_act";
  const ImageShape shape = check_input(op, x);
  check_eps(op, eps);
  const Resample change = as_resample(op, resample);
  check_affine(op, "gamma", gamma, x);
  check_affine(op, "beta", beta, x);
  const ScalarType wide = statistics_type(x.scalar_type());
  const Tensor x_in_format = in_format(x, shape.format);
  const Tensor wide_gamma = in_type(gamma, wide), wide_beta = in_type(beta, wide);
  const Tensor y = empty_like_input(x, resampled_shape(op, shape, change));
  const Tensor mean = empty_mean(x), rstd = empty_statistics(x);
  for_type(x.scalar_type(), [&](auto number) {
    using T = decltype(number);
    auto p = as_problem<T>(shape, x_in_format, y, wide_gamma, wide_beta, slope, one_plus, change);
    p.eps = eps;
    p.mean = outputs<T>(mean);
    p.rest = p.mean + shape.batch * shape.channels;
    p.rstd = outputs<T>(rstd);
    forward(p, shape);
  });
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
  const ScalarType wide = statistics_type(x.scalar_type());
  const Tensor x_in_format = in_format(x, shape.format);
  const Tensor grad_in_format = in_format(grad, shape.format);
  const Tensor wide_gamma = in_type(gamma, wide), wide_beta = in_type(beta, wide);
  const Tensor dense_mean = in_format(mean, MemoryFormat::Contiguous),
               dense_rstd = in_format(rstd, MemoryFormat::Contiguous);
  const Tensor grad_x = empty_like_input(x, shape), grad_gamma = empty_statistics(x), grad_beta = empty_statistics(x);
  for_type(x.scalar_type(), [&](auto number) {
    using T = decltype(number);
    auto p = as_problem<T>(shape, x_in_format, grad_x, wide_gamma, wide_beta, slope, one_plus, change);
    p.grad = static_cast<const T*>(grad_in_format.const_data_ptr());
    p.mean = inputs<T>(dense_mean);
    p.rest = p.mean + shape.batch * shape.channels;
    p.rstd = inputs<T>(dense_rstd);
    p.grad_gamma = outputs<T>(grad_gamma);
    p.grad_beta = outputs<T>(grad_beta);
    backward(p, shape);
  });
  return {grad_x, grad_gamma, grad_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!runs_here()) {
    return;
  }
  m.impl("adain_act", TORCH_BOX(&adain_act));
  m.impl("adain_act_backward", TORCH_BOX(&adain_act_backward));
}

}  // namespace m2o_fast
