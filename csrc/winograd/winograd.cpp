// Winograd's convolution and its derivatives on the CPU. The definitions are in m2o_fast/ops/winograd.py.
#include <torch/csrc/stable/library.h>

#include <memory>
#include <new>
#include <optional>

#include "tensor_cpu.h"
#include "winograd_cpu.h"

namespace m2o_fast {
namespace {

template <typename T>
M2O_KERNEL void run_kernel(const WeightView<T>& weight, int64_t begin, int64_t end, T* frequencies) {
  for (int64_t panel = begin; panel < end; ++panel) {
    weight_to_frequencies(weight, panel, frequencies);
  }
}
template <typename T>
M2O_KERNEL void run_convolve(const ConvolveProblem<T>& p, int64_t begin, int64_t end, int64_t most, T* in, T* out) {
  convolve_tiles(p, begin, end, most, in, out);
}
template <typename T>
M2O_KERNEL void run_inputs(const TileShape& shape, const T* x, int64_t panel, int64_t begin, int64_t end,
                           const PanelShape& layout, T* to) {
  to_frequencies<InputMap>(shape, x, panel, begin, end, layout, to);
}
template <typename T>
M2O_KERNEL void run_gradients(const TileShape& shape, const T* grad, int64_t panel, int64_t begin, int64_t end,
                              const PanelShape& layout, T* to) {
  to_frequencies<OutputAdjointMap>(shape, grad, panel, begin, end, layout, to);
}
template <typename T>
M2O_KERNEL void run_products(const T* gradients, const T* inputs, const PanelShape& in, int64_t tiles, bool add,
                             T* sums) {
  multiply_gradients(gradients, inputs, in, tiles, add, sums);
}
template <typename T>
M2O_KERNEL void run_weight(const T* frequencies, int64_t step, int64_t in_channels, T* weight) {
  weight_from_frequencies(frequencies, step, in_channels, weight);
}

constexpr std::align_val_t kLine{64};

struct Release {
  void operator()(void* memory) const { ::operator delete(memory, kLine); }
};

// Numbers that nobody set, at the start of a line.
template <typename T>
std::unique_ptr<T[], Release> numbers_of(int64_t count) {
  return std::unique_ptr<T[], Release>(static_cast<T*>(::operator new(count * sizeof(T), kLine)));
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
  require(shape.channels % kPanel == 0, op, "channels must be a multiple of ", kPanel, ", got ", shape.channels);
  return {shape.batch, shape.channels, shape.height, shape.width, shape.format == MemoryFormat::ChannelsLast};
}

MemoryFormat format_of(const TileShape& shape) {
  return shape.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

template <typename T>
const T* numbers(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// What the frequencies of inputs and outputs of the tiles at a time should take, in bytes, to stay in the second-level
// cache or near it; and how many tiles there should be at least, for every time the weight's frequencies are read
// again.
constexpr int64_t kBufferBytes = int64_t{1} << 20, kLeastTiles = 48, kLeastTilesOfAThread = 24;

// Tiles at a time, a multiple of six. Their number decides nothing but speed.
int64_t tiles_at_a_time(const TileShape& input, const TileShape& output, int64_t size, int64_t threads) {
  const int64_t fitting = kBufferBytes / (kFrequencies * (input.channels + output.channels) * size);
  const int64_t parts = ceil_div(input.tiles(), std::max(kLeastTiles, fitting));
  const int64_t shared = std::min(ceil_div(parts, threads) * threads, ceil_div(input.tiles(), kLeastTilesOfAThread));
  return ceil_div(ceil_div(input.tiles(), std::max(parts, shared)), kTileRows) * kTileRows;
}

Tensor winograd_convolve(Tensor x, Tensor weight, std::optional<Tensor> bias, bool transposed) {
  const char* op = "winograd_convolve";
  const TileShape input = check_tiles(op, x);
  require(weight.dim() == 4 && weight.size(transposed ? 0 : 1) == input.channels &&
              weight.size(transposed ? 1 : 0) % kPanel == 0 && weight.size(2) == 3 && weight.size(3) == 3 &&
              weight.scalar_type() == x.scalar_type(),
          op, "weight must be [multiple of ", kPanel, ", C, 3, 3], or [C, multiple of ", kPanel,
          ", 3, 3] if transposed, in the dtype of x ", words_of_shape(x), ", got ", words_of_shape(weight));
  TileShape output = input;
  output.channels = weight.size(transposed ? 1 : 0);
  require(!bias || (bias->dim() == 1 && bias->size(0) == output.channels && bias->scalar_type() == x.scalar_type()), op,
          "bias must be [output channels] in the dtype of x");
  const Tensor image = in_format(x, format_of(input));
  const Tensor added = bias ? torch::stable::contiguous(*bias) : weight;
  const std::array<int64_t, 4> sizes{output.batch, output.channels, output.height, output.width};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, x.scalar_type(), std::nullopt, x.device(),
                                        std::nullopt, format_of(output));
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const WeightView<T> plain{weight.size(0),   weight.size(1),   numbers<T>(weight), weight.stride(0),
                              weight.stride(1), weight.stride(2), weight.stride(3)};
    const WeightView<T> view = transposed ? plain.transposed() : plain;
    const auto kernel = numbers_of<T>(kFrequencies * view.frequency());
    torch::stable::parallel_for(0, output.panels(), 1,
                                [&](int64_t begin, int64_t end) { run_kernel(view, begin, end, kernel.get()); });
    const ConvolveProblem<T> p{input,
                               output,
                               numbers<T>(image),
                               kernel.get(),
                               bias ? numbers<T>(added) : nullptr,
                               view.frequency(),
                               static_cast<T*>(y.mutable_data_ptr())};
    const int64_t tiles = input.tiles();
    if (tiles == 0) {
      return;
    }
    const int64_t most = tiles_at_a_time(input, output, sizeof(T), torch::stable::get_num_threads());
    torch::stable::parallel_for(0, ceil_div(tiles, most), 1, [&](int64_t begin, int64_t end) {
      const auto in = numbers_of<T>(PanelShape{input.channels, most}.size());
      const auto out = numbers_of<T>(PanelShape{output.channels, most}.size());
      for (int64_t part = begin; part < end; ++part) {
        run_convolve(p, part * most, std::min(part * most + most, tiles), most, in.get(), out.get());
      }
    });
  });
  return y;
}

// The gradient by weight of winograd_convolve. Every sum is one thread's and goes from tile to tile, so the bits do not
// depend on the number of threads.
Tensor winograd_by_weight(Tensor grad, Tensor x) {
  const char* op = "winograd_by_weight";
  const TileShape input = check_tiles(op, x), output = check_tiles(op, grad);
  require(output.batch == input.batch && output.height == input.height && output.width == input.width &&
              grad.scalar_type() == x.scalar_type(),
          op, "grad must be [N, C', H, W] in the dtype of x ", words_of_shape(x), ", got ", words_of_shape(grad));
  const Tensor image = in_format(x, format_of(input)), gradient = in_format(grad, format_of(output));
  const std::array<int64_t, 4> sizes{output.channels, input.channels, 3, 3};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, x.scalar_type(), std::nullopt, x.device());
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const int64_t tiles = input.tiles(), channels = input.channels * output.channels, step = channels + kPanel;
    T* weight = static_cast<T*>(y.mutable_data_ptr());
    if (tiles == 0) {
      std::fill_n(weight, y.numel(), T{});
      return;
    }
    const int64_t most = tiles_at_a_time(input, output, sizeof(T), 1);
    const PanelShape in{input.channels, most}, out{output.channels, most};
    const auto inputs = numbers_of<T>(in.size()), gradients = numbers_of<T>(out.size());
    const auto sums = numbers_of<T>(kFrequencies * step);
    for (int64_t first = 0; first < tiles; first += most) {
      const int64_t last = std::min(first + most, tiles);
      torch::stable::parallel_for(0, input.panels() + output.panels(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel) {
          panel < input.panels()
              ? run_inputs(input, numbers<T>(image), panel, first, last, in, inputs.get())
              : run_gradients(output, numbers<T>(gradient), panel - input.panels(), first, last, out, gradients.get());
        }
      });
      torch::stable::parallel_for(0, kFrequencies * output.panels(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t frequency = item / output.panels(), panel = item % output.panels();
          run_products(gradients.get() + frequency * out.frequency() + panel * out.panel(),
                       inputs.get() + frequency * in.frequency(), in, last - first, first > 0,
                       sums.get() + frequency * step + panel * kPanel * input.channels);
        }
      });
    }
    torch::stable::parallel_for(0, output.channels, grain_size(kFrequencies * input.channels),
                                [&](int64_t begin, int64_t end) {
                                  for (int64_t channel = begin; channel < end; ++channel) {
                                    run_weight(sums.get() + channel * input.channels, step, input.channels,
                                               weight + channel * input.channels * 9);
                                  }
                                });
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
