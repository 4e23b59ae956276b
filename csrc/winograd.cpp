// Winograd's convolution and its derivative by the kernel on the CPU. The definitions are in m2o_fast/ops/winograd.py.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "tensor_cpu.h"
#include "winograd_cpu.h"

namespace m2o_fast {
namespace {

template <typename T>
M2O_KERNEL void run_convolve(const ConvolveProblem<T>& p, int64_t begin, int64_t end, T* in, T* out) {
  convolve_blocks(p, begin, end, in, out);
}
template <typename T>
M2O_KERNEL void run_by_weight(const ByWeightProblem<T>& p, int64_t begin, int64_t end, T* in, T* out, T* s) {
  by_weight_blocks(p, begin, end, in, out, s);
}

// Calls body with a number of the type, which is float32 or float64.
template <typename Body>
void for_wide_type(const char* op, const Tensor& x, const Body& body) {
  const ScalarType type = x.scalar_type();
  require(type == ScalarType::Float || type == ScalarType::Double, op, "x must be float32 or float64, got ",
          torch::headeronly::toString(type));
  type == ScalarType::Float ? body(float{}) : body(double{});
}

TileShape check_tiles(const char* op, const Tensor& x) {
  const ImageShape shape = check_input(op, x);
  require(shape.channels % CHANNEL_MULTIPLE == 0, op, "channels must be a multiple of ", CHANNEL_MULTIPLE, ", got ",
          shape.channels);
  return {shape.batch, shape.channels, shape.height, shape.width};
}

Tensor as_rows(const Tensor& x) { return torch::stable::contiguous(x, MemoryFormat::ChannelsLast); }

template <typename T>
const T* numbers(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

Tensor winograd_convolve(Tensor x, Tensor kernel, std::optional<Tensor> bias) {
  const char* op = "winograd_convolve";
  const TileShape input = check_tiles(op, x);
  require(kernel.dim() == 3 && kernel.size(0) == FREQUENCIES && kernel.size(1) == input.channels &&
              kernel.size(2) % CHANNEL_MULTIPLE == 0 && kernel.scalar_type() == x.scalar_type(),
          op, "kernel must be [36, C, multiple of ", CHANNEL_MULTIPLE, "] in the dtype of x, got ",
          words_of_shape(kernel));
  TileShape output = input;
  output.channels = kernel.size(2);
  require(!bias || (bias->dim() == 1 && bias->size(0) == output.channels && bias->scalar_type() == x.scalar_type()), op,
          "bias must be [output channels] in the dtype of x");
  const Tensor rows = as_rows(x), weights = torch::stable::contiguous(kernel);
  const Tensor added = bias ? torch::stable::contiguous(*bias) : weights;
  const std::array<int64_t, 4> sizes{output.batch, output.channels, output.height, output.width};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, x.scalar_type(), std::nullopt, x.device(),
                                        std::nullopt, MemoryFormat::ChannelsLast);
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const ConvolveProblem<T> p{input,
                               output,
                               numbers<T>(rows),
                               numbers<T>(weights),
                               bias ? numbers<T>(added) : nullptr,
                               static_cast<T*>(y.mutable_data_ptr())};
    torch::stable::parallel_for(0, ceil_div(input.tiles(), BLOCK_TILES), 1, [&](int64_t begin, int64_t end) {
      std::vector<T> in(BLOCK_TILES * FREQUENCIES * input.channels), out(BLOCK_TILES * FREQUENCIES * output.channels);
      run_convolve(p, begin, end, in.data(), out.data());
    });
  });
  return y;
}

// The gradient by kernel of winograd_convolve, transposed: [36, output channels, input channels].
Tensor winograd_by_weight(Tensor grad, Tensor x) {
  const char* op = "winograd_by_weight";
  const TileShape input = check_tiles(op, x), output = check_tiles(op, grad);
  require(output.batch == input.batch && output.height == input.height && output.width == input.width &&
              grad.scalar_type() == x.scalar_type(),
          op, "grad must be [N, C', H, W] in the dtype of x ", words_of_shape(x), ", got ", words_of_shape(grad));
  const Tensor rows = as_rows(x), gradients = as_rows(grad);
  const std::array<int64_t, 3> sizes{FREQUENCIES, output.channels, input.channels};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, x.scalar_type(), std::nullopt, x.device());
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const ByWeightProblem<T> p{input, output, numbers<T>(rows), numbers<T>(gradients)};
    const int64_t blocks = ceil_div(input.tiles(), BLOCK_TILES), count = y.numel();
    // One sum per thread, added up in order: so runs with as many threads give the same bits.
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), blocks));
    std::vector<T> sums(count * parts);
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> in(BLOCK_TILES * FREQUENCIES * input.channels), out(BLOCK_TILES * FREQUENCIES * output.channels);
      for (int64_t part = begin; part < end; ++part) {
        run_by_weight(p, blocks * part / parts, blocks * (part + 1) / parts, in.data(), out.data(),
                      sums.data() + part * count);
      }
    });
    T* to = static_cast<T*>(y.mutable_data_ptr());
    std::copy_n(sums.begin(), count, to);
    for (int64_t part = 1; part < parts; ++part) {
      std::transform(to, to + count, sums.begin() + part * count, to, std::plus<T>());
    }
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!runs_here()) {
    return;
  }
  m.impl("winograd_convolve", TORCH_BOX(&winograd_convolve));
  m.impl("winograd_by_weight", TORCH_BOX(&winograd_by_weight));
}

}  // namespace m2o_fast
