// Normalise + affine + LeakyReLU on the CPU. The definition is adain_act_reference in m2o_fast/ops/adain.py.
#include "adain.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "adain_cpu.h"

namespace m2o_fast {
namespace {

// target_clones wants plain functions: one of each for every storage type, with everything in adain_cpu.h inlined.
#define M2O_ADAIN_KERNELS(T)                                                                                          \
  M2O_CLONES void run_forward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {                          \
    forward_planes(p, begin, end);                                                                                    \
  }                                                                                                                   \
  M2O_CLONES void run_backward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {                         \
    backward_planes(p, begin, end);                                                                                   \
  }
M2O_ADAIN_KERNELS(float)
M2O_ADAIN_KERNELS(double)
M2O_ADAIN_KERNELS(BFloat16)
M2O_ADAIN_KERNELS(Half)

// Below this many numbers a second thread costs more than it brings.
constexpr int64_t NUMBERS_PER_THREAD = 32768;
// From this size on, the output would only push x out of the caches: it is written past them.
constexpr int64_t STREAMED_BYTES = int64_t{1} << 24;

Tensor in_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

template <typename Wide>
Affine<Wide> as_affine(const Tensor& tensor) {
  const bool per_sample = tensor.dim() == 2;
  return {static_cast<const Wide*>(tensor.const_data_ptr()), per_sample ? tensor.stride(0) : 0,
          tensor.stride(per_sample ? 1 : 0)};
}

// Calls body with a number of the storage type.
template <typename Body>
void for_type(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    default:
      return body(Half{});
  }
}

// The tensors of one call in the layout that the kernels read; keeps copies alive.
struct Operands {
  Tensor x, grad, gamma, beta, mean, rstd, out, grad_gamma, grad_beta;
};

template <typename T>
AdainProblem<T> as_problem(const Operands& of, const AdainShape& shape, double eps, double slope, bool one_plus) {
  using Wide = typename Simd<T>::Wide;
  AdainProblem<T> p{};
  p.channels = shape.channels;
  p.plane = shape.plane();
  p.x = static_cast<const T*>(of.x.const_data_ptr());
  p.out = static_cast<T*>(of.out.mutable_data_ptr());
  p.gamma = as_affine<Wide>(of.gamma);
  p.beta = as_affine<Wide>(of.beta);
  p.eps = eps;
  p.slope = static_cast<Wide>(slope);
  p.one_plus = one_plus;
  p.streamed = shape.batch * p.channels * p.plane * static_cast<int64_t>(sizeof(T)) >= STREAMED_BYTES;
  p.mean = static_cast<Wide*>(of.mean.mutable_data_ptr());
  p.rstd = static_cast<Wide*>(of.rstd.mutable_data_ptr());
  return p;
}

std::tuple<Tensor, Tensor, Tensor> adain_act(Tensor x, Tensor gamma, Tensor beta, double eps, double slope,
                                             bool one_plus) {
  const char* op = "adain_act";
  const AdainShape shape = check_input(op, x);
  check_affine(op, "gamma", gamma, x);
  check_affine(op, "beta", beta, x);
  const ScalarType wide = statistics_type(x.scalar_type());
  Operands of{};
  of.x = torch::stable::contiguous(x, shape.format);
  of.gamma = in_type(gamma, wide);
  of.beta = in_type(beta, wide);
  of.out = empty_like_input(x, shape);
  of.mean = empty_statistics(x);
  of.rstd = empty_statistics(x);
  for_type(x.scalar_type(), [&](auto number) {
    const auto p = as_problem<decltype(number)>(of, shape, eps, slope, one_plus);
    const int64_t grain = std::max<int64_t>(1, NUMBERS_PER_THREAD / std::max<int64_t>(1, p.plane));
    torch::stable::parallel_for(0, shape.batch * shape.channels, grain,
                                [&](int64_t begin, int64_t end) { run_forward_planes(p, begin, end); });
  });
  return {of.out, of.mean, of.rstd};
}

std::tuple<Tensor, Tensor, Tensor> adain_act_backward(Tensor grad, Tensor x, Tensor gamma, Tensor beta, Tensor mean,
                                                      Tensor rstd, double slope, bool one_plus) {
  const char* op = "adain_act_backward";
  const AdainShape shape = check_input(op, x);
  check_affine(op, "gamma", gamma, x);
  check_affine(op, "beta", beta, x);
  check_gradient(op, grad, x);
  check_statistics(op, "mean", mean, x);
  check_statistics(op, "rstd", rstd, x);
  const ScalarType wide = statistics_type(x.scalar_type());
  Operands of{};
  of.x = torch::stable::contiguous(x, shape.format);
  of.grad = torch::stable::contiguous(grad, shape.format);
  of.gamma = in_type(gamma, wide);
  of.beta = in_type(beta, wide);
  of.mean = torch::stable::contiguous(mean);
  of.rstd = torch::stable::contiguous(rstd);
  of.out = empty_like_input(x, shape);
  of.grad_gamma = empty_statistics(x);
  of.grad_beta = empty_statistics(x);
  for_type(x.scalar_type(), [&](auto number) {
    using T = decltype(number);
    auto p = as_problem<T>(of, shape, 0, slope, one_plus);
    p.grad = static_cast<const T*>(of.grad.const_data_ptr());
    p.grad_gamma = static_cast<typename Simd<T>::Wide*>(of.grad_gamma.mutable_data_ptr());
    p.grad_beta = static_cast<typename Simd<T>::Wide*>(of.grad_beta.mutable_data_ptr());
    const int64_t grain = std::max<int64_t>(1, NUMBERS_PER_THREAD / std::max<int64_t>(1, p.plane));
    torch::stable::parallel_for(0, shape.batch * shape.channels, grain,
                                [&](int64_t begin, int64_t end) { run_backward_planes(p, begin, end); });
  });
  return {of.out, of.grad_gamma, of.grad_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  m.impl("adain_act", TORCH_BOX(&adain_act));
  m.impl("adain_act_backward", TORCH_BOX(&adain_act_backward));
}

}  // namespace m2o_fast
