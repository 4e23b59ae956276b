// Scale, bias, LeakyReLU and scale on the CPU. The definition is scale_bias_act_reference in m2o_fast/ops/modulate.py.

#include <optional>
#include <tuple>

#include "modulate_cpu.h"
#include "modulate_tensor.h"
#include "stable_torch.h"
#include "tensor_cpu.h"

namespace m2o_fast {
namespace {

template <typename T>
M2O_KERNEL void run_forward(const ModulateProblem<T>& p, int64_t begin, int64_t end) {
  chain_planes(p, begin, end);
}
template <typename T>
M2O_KERNEL void run_backward(const ModulateProblem<T>& p, int64_t begin, int64_t end) {
  chain_gradient_of_planes(p, begin, end);
}
template <typename T>
M2O_KERNEL void run_forward(const ModulateProblem<T>& p, ChannelRange range, ChainScratch<T>& scratch) {
  chain_rows(p, range, scratch);
}
template <typename T>
M2O_KERNEL void run_backward(const ModulateProblem<T>& p, ChannelRange range, ChainScratch<T>& scratch) {
  chain_gradient_of_rows(p, range, scratch);
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

// Calls run(p, planes...) or run(p, range, scratch) for all of the images, in parallel.
template <typename T, typename Run>
void for_all(const ModulateProblem<T>& p, const ImageShape& shape, const Run& run) {
  if (shape.format == MemoryFormat::Contiguous) {
    torch::stable::parallel_for(0, shape.batch * shape.channels, grain_size(p.plane),
                                [&](int64_t begin, int64_t end) { run(p, begin, end); });
    return;
  }
  const int64_t width = range_width(shape);
  const int64_t ranges = width == 0 ? 0 : ceil_div(shape.channels, width);
  torch::stable::parallel_for(0, shape.batch * ranges, grain_size(p.plane * width), [&](int64_t begin, int64_t end) {
    ChainScratch<T> scratch(width);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t first = at % ranges * width;
      run(p, ChannelRange{at / ranges, first, std::min(first + width, shape.channels)}, scratch);
    }
  });
}

template <typename Wide>
PlaneNumbers<Wide> as_affine(const OptionalTensor& vector) {
  if (!vector) {
    return {nullptr, 0, 0};
  }
  const bool per_sample = vector->dim() == 2;
  return {static_cast<const Wide*>(vector->const_data_ptr()), per_sample ? vector->stride(0) : 0,
          vector->stride(per_sample ? 1 : 0)};
}

// What the two operators have in common. The vectors are of the type of the sums; x and out are in the format of shape.
template <typename T>
ModulateProblem<T> as_problem(const ImageShape& shape, const Tensor& x, const Tensor& out,
                              const ModulateVectors& vectors, double slope) {
  using Wide = typename Simd<T>::Wide;
  ModulateProblem<T> p{};
  p.channels = shape.channels;
  p.plane = shape.plane();
  p.x = static_cast<const T*>(x.const_data_ptr());
  p.out = static_cast<T*>(out.mutable_data_ptr());
  p.scale = as_affine<Wide>(vectors.scale);
  p.bias = as_affine<Wide>(vectors.bias);
  p.next = as_affine<Wide>(vectors.next);
  p.slope = static_cast<Wide>(slope);
  p.plain = vectors.scale && !vectors.bias && !vectors.next && slope == 1;
  const int64_t bytes = shape.batch * shape.channels * p.plane * static_cast<int64_t>(sizeof(T));
  const bool rows_are_aligned = shape.channels * sizeof(T) % 16 == 0 && is_aligned(p.out);
  p.streamed = bytes >= kStreamedBytes && (shape.format == MemoryFormat::Contiguous || rows_are_aligned);
  return p;
}

// The vectors in the type of the sums of x.
ModulateVectors widen_vectors(const ModulateVectors& vectors, const Tensor& x) {
  const auto widen = [&](const OptionalTensor& vector) {
    return vector ? OptionalTensor(in_type(*vector, statistics_type(x.scalar_type()))) : std::nullopt;
  };
  return {widen(vectors.scale), widen(vectors.bias), widen(vectors.next)};
}

// nullptr where there is no such vector.
template <typename T>
typename Simd<T>::Wide* sums(const OptionalTensor& vector, const Tensor& gradient) {
  return vector ? static_cast<typename Simd<T>::Wide*>(gradient.mutable_data_ptr()) : nullptr;
}

Tensor scale_bias_act(Tensor x, OptionalTensor scale, OptionalTensor bias, OptionalTensor next_scale, double slope) {
  const ModulateVectors vectors{scale, bias, next_scale};
  const ImageShape shape = check_modulate("scale_bias_act", x, vectors);
  const Tensor x_in_format = in_format(x, shape.format);
  const ModulateVectors wide = widen_vectors(vectors, x);
  const Tensor y = empty_like_input(x, shape);
  for_type(x.scalar_type(), [&](auto number) {
    using T = decltype(number);
    for_all(as_problem<T>(shape, x_in_format, y, wide, slope), shape, [](auto&&... call) { run_forward(call...); });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_bias_act_backward(Tensor grad, Tensor x, OptionalTensor scale,
                                                                   OptionalTensor bias, OptionalTensor next_scale,
                                                                   double slope) {
  const char* op = "scale_bias_act_backward";
  const ModulateVectors vectors{scale, bias, next_scale};
  const ImageShape shape = check_modulate(op, x, vectors);
  check_gradient(op, grad, x);
  const Tensor x_in_format = in_format(x, shape.format);
  const Tensor grad_in_format = in_format(grad, shape.format);
  const ModulateVectors wide = widen_vectors(vectors, x);
  const Tensor grad_x = empty_like_input(x, shape), grad_scale = empty_sums(scale, x), grad_bias = empty_sums(bias, x),
               grad_next = empty_sums(next_scale, x);
  for_type(x.scalar_type(), [&](auto number) {
    using T = decltype(number);
    auto p = as_problem<T>(shape, x_in_format, grad_x, wide, slope);
    p.grad = static_cast<const T*>(grad_in_format.const_data_ptr());
    p.grad_scale = sums<T>(scale, grad_scale);
    p.grad_bias = sums<T>(bias, grad_bias);
    p.grad_next = sums<T>(next_scale, grad_next);
    for_all(p, shape, [](auto&&... call) { run_backward(call...); });
  });
  return {grad_x, grad_scale, grad_bias, grad_next};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!runs_here()) {
    return;
  }
  m.impl("scale_bias_act", TORCH_BOX(&scale_bias_act));
  m.impl("scale_bias_act_backward", TORCH_BOX(&scale_bias_act_backward));
}

}  // namespace m2o_fast
