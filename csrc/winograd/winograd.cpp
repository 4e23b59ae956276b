// Winograd's convolution and its derivatives on the CPU. The definitions are in m2o_fast/ops/winograd.py.

#include <atomic>
#include <memory>
#include <new>
#include <optional>

#include "stable_torch.h"
#include "tensor_cpu.h"
#include "winograd_cpu.h"

namespace m2o_fast {
namespace {

std::atomic<bool> wide_vectors = has_wide_vectors();

template <typename Body>
M2O_KERNEL void run_narrow(const Body& body) {
  body(std::integral_constant<int64_t, 32>{});
}
template <typename Body>
M2O_WIDE_KERNEL void run_wide(const Body& body) {
  body(std::integral_constant<int64_t, 64>{});
}

// Calls body, which must be inlined, with the number of bytes of a vector.
template <typename Body>
void with_vectors(bool wide, const Body& body) {
  wide ? run_wide(body) : run_narrow(body);
}

// Numbers that nobody set, at the start of a line. A thread keeps the memory: handed back and taken again, every page
// of it would cost a fault, which for small images is more than the products.
class Scratch {
 public:
  template <typename T>
  T* numbers_of(int64_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(::operator new(bytes, kAlignment));
      size_ = bytes;
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{kLine};
  struct Release {
    void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<void, Release> memory_;
  size_t size_ = 0;
};

// Two are for what all threads read, the last for each thread's own.
thread_local Scratch shared_scratch, weight_scratch, own_scratch;

// Calls body with a number of the type, which is float32 or float64.
template <typename Body>
void for_wide_type(const char* op, const Tensor& x, const Body& body) {
  const ScalarType type = x.scalar_type();
  require(type == ScalarType::Float || type == ScalarType::Double, op, "x must be float32 or float64, got ",
          torch::headeronly::toString(type));
  type == ScalarType::Float ? body(float{}) : body(double{});
}

TileShape check_tiles(const char* op, const Tensor& x, bool reflected) {
  const ImageShape shape = check_input(op, x);
  require(shape.channels % kPanel == 0, op, "channels must be a multiple of ", kPanel, ", got ", shape.channels);
  require(!reflected || std::min(shape.height, shape.width) >= 2, op, "borders can only be reflected where height and ",
          "width are at least 2, got ", words_of_shape(x));
  return {shape.batch, shape.channels, shape.height, shape.width, shape.format == MemoryFormat::ChannelsLast,
          reflected};
}

MemoryFormat format_of(const TileShape& shape) {
  return shape.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

template <typename T>
const T* numbers(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// What the frequencies of inputs and outputs of the tiles at a time should take, in bytes, to stay in the second-level
// cache or near it; and how many tiles there should be at least, for every time the weight's frequencies are made
// again.
constexpr int64_t kBufferBytes = int64_t{1} << 20, kLeastTiles = 64, kLeastTilesOfAThread = 24;
// Panels of input channels of a product at a time: with the outputs of one product they stay in the first-level cache.
constexpr int64_t kInPanels = 8;
// If all frequencies of the weight take no more than this, in bytes, they stay in the second-level cache from one group
// of tiles to the next.
constexpr int64_t kKeptBytes = int64_t{3} << 18;
// Groups have a multiple of so many tiles, which the products take at a time.
constexpr int64_t kWholeTiles = kTileRows<VectorOf<float, 64>::Type>;

// How a convolution is cut into groups of tiles and blocks of output channels. It decides nothing but speed.
struct Plan {
  int64_t tiles, out_panels;
  bool groups_side_by_side;  // on several threads; else the blocks
  bool keeps_weight;         // in frequencies, for all groups
};

Plan plan_convolution(const TileShape& input, const TileShape& output, int64_t size, bool wide, int64_t threads) {
  const int64_t out_panels = std::min<int64_t>(wide ? 2 : 1, output.panels());
  const int64_t blocks = out_panels ? ceil_div(output.panels(), out_panels) : 0;
  const int64_t fitting = kBufferBytes / (kFrequencies * (input.channels + out_panels * kPanel) * size);
  const int64_t groups = ceil_div(input.tiles(), std::max(kLeastTiles, fitting));
  const int64_t spread = std::min(ceil_div(groups, threads) * threads, ceil_div(input.tiles(), kLeastTilesOfAThread));
  // What adds to the output would meet there.
  const bool side_by_side = !output.reflected && std::min(spread, threads) >= std::min(blocks, threads);
  const int64_t part = ceil_div(input.tiles(), side_by_side ? std::max(groups, spread) : groups);
  const bool keeps = part < input.tiles() && input.panels() <= kInPanels &&
                     blocks * BlockShape{out_panels, input.panels()}.size() * size <= kKeptBytes;
  return {ceil_div(part, kWholeTiles) * kWholeTiles, out_panels, side_by_side, keeps};
}

Tensor winograd_convolve(Tensor x, Tensor weight, std::optional<Tensor> bias, bool transposed, bool reflected) {
  const char* op = "winograd_convolve";
  TileShape input = check_tiles(op, x, reflected);
  require(weight.dim() == 4 && weight.size(transposed ? 0 : 1) == input.channels &&
              weight.size(transposed ? 1 : 0) % kPanel == 0 && weight.size(2) == 3 && weight.size(3) == 3 &&
              weight.scalar_type() == x.scalar_type(),
          op, "weight must be [multiple of ", kPanel, ", C, 3, 3], or [C, multiple of ", kPanel,
          ", 3, 3] if transposed, in the dtype of x ", words_of_shape(x), ", got ", words_of_shape(weight));
  TileShape output = input;
  output.channels = weight.size(transposed ? 1 : 0);
  (transposed ? input : output).reflected = false;
  require(!bias || !output.reflected, op, "a bias has no place in the derivative by a reflected image");
  require(!bias || (bias->dim() == 1 && bias->size(0) == output.channels && bias->scalar_type() == x.scalar_type()), op,
          "bias must be [output channels] in the dtype of x");
  const bool channels_last = is_channels_last(weight);
  const Tensor image = in_format(x, format_of(input));
  const Tensor kernel = in_format(weight, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Tensor added = bias ? torch::stable::contiguous(*bias) : weight;
  const Tensor y = empty_tensor<4>({output.batch, output.channels, output.height, output.width}, x.scalar_type(), x,
                                   format_of(output));
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const ConvolveProblem<T> p{
        input,
        output,
        {{weight.size(1), channels_last}, numbers<T>(kernel), transposed, transposed && !output.reflected},
        numbers<T>(image),
        bias ? numbers<T>(added) : nullptr,
        static_cast<T*>(y.mutable_data_ptr())};
    const int64_t tiles = input.tiles();
    if (y.numel() == 0) {
      return;
    }
    if (output.reflected) {
      std::fill_n(p.y, y.numel(), T{});
    }
    const bool wide = wide_vectors;
    const Plan plan = plan_convolution(input, output, sizeof(T), wide, torch::stable::get_num_threads());
    const int64_t groups = ceil_div(tiles, plan.tiles), blocks = ceil_div(output.panels(), plan.out_panels);
    const PanelShape in{input.channels, plan.tiles};
    const BlockShape whole{plan.out_panels, input.panels()};
    T* kept = plan.keeps_weight ? weight_scratch.numbers_of<T>(blocks * whole.size()) : nullptr;
    if (kept) {
      with_vectors(wide, [&](auto bytes) M2O_INLINED {
        using Vector = typename VectorOf<T, bytes>::Type;
        for (int64_t panel = 0; panel < output.panels(); ++panel) {
          block_to_frequencies<Vector>(p.weight, panel, 0, {1, input.panels()}, kept + panel * whole.panel());
        }
      });
    }
    // Inside a loop that runs on several threads, the loops below run on one.
    torch::stable::parallel_for(0, groups, plan.groups_side_by_side ? 1 : groups, [&](int64_t first, int64_t last) {
      T* inputs = shared_scratch.numbers_of<T>(in.size());
      for (int64_t group = first; group < last; ++group) {
        const int64_t begin = group * plan.tiles, end = std::min(begin + plan.tiles, tiles);
        const int64_t grain = grain_size((end - begin) * kFrequencies * kPanel);
        torch::stable::parallel_for(0, input.panels(), grain, [&](int64_t from, int64_t to) {
          with_vectors(wide, [&](auto bytes) M2O_INLINED {
            using Vector = typename VectorOf<T, bytes>::Type;
            for (int64_t panel = from; panel < to; ++panel) {
              if (output.reflected) {
                to_frequencies<OutputAdjointMap, Vector>(input, p.x, panel, begin, end, in, inputs);
              } else {
                to_frequencies<InputMap, Vector>(input, p.x, panel, begin, end, in, inputs);
              }
            }
          });
        });
        torch::stable::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
          const int64_t size = BlockShape{plan.out_panels, kInPanels}.size();
          T* weights = own_scratch.numbers_of<T>(size + PanelShape{plan.out_panels * kPanel, plan.tiles}.size());
          with_vectors(wide, [&](auto bytes) M2O_INLINED {
            using Vector = typename VectorOf<T, bytes>::Type;
            for (int64_t block = from; block < to; ++block) {
              const int64_t panel = block * plan.out_panels;
              convolve_block<Vector>(p, panel, std::min(panel + plan.out_panels, output.panels()), kInPanels, begin,
                                     end, inputs, in, kept != nullptr, kept ? kept + block * whole.size() : weights,
                                     weights + size);
            }
          });
        });
      }
    });
  });
  return y;
}

// What the gradient by weight keeps of both images at a time, in bytes; it decides where sums end and are added up, so
// no thread has a say in it.
constexpr int64_t kGradientBytes = int64_t{1} << 21;
// With more, in bytes, what the next product needs is fetched ahead; with less that only costs time.
constexpr int64_t kNearBytes = int64_t{3} << 20;

// Panels of output and of input channels of a block of the gradient: so that its sums stay in the second-level cache,
// but every thread has a block.
int64_t block_panels(const TileShape& input, const TileShape& output, bool wide, int64_t threads) {
  int64_t panels = wide ? 4 : 2;
  while (panels > 1 && ceil_div(input.panels(), panels) * ceil_div(output.panels(), panels) < threads) {
    panels /= 2;
  }
  return panels;
}

// The gradient by weight of winograd_convolve. Every sum is one thread's and goes from tile to tile, in parts that do
// not depend on the number of threads; so neither do the bits.
Tensor winograd_by_weight(Tensor grad, Tensor x, bool reflected, bool channels_last) {
  const char* op = "winograd_by_weight";
  const TileShape input = check_tiles(op, x, reflected), output = check_tiles(op, grad, false);
  require(output.batch == input.batch && output.height == input.height && output.width == input.width &&
              grad.scalar_type() == x.scalar_type(),
          op, "grad must be [N, C', H, W] in the dtype of x ", words_of_shape(x), ", got ", words_of_shape(grad));
  const Tensor image = in_format(x, format_of(input)), gradient = in_format(grad, format_of(output));
  const Tensor y = empty_tensor<4>({output.channels, input.channels, 3, 3}, x.scalar_type(), x,
                                   channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const WeightShape shape{input.channels, channels_last};
  for_wide_type(op, x, [&](auto number) {
    using T = decltype(number);
    const int64_t tiles = input.tiles();
    T* weight = static_cast<T*>(y.mutable_data_ptr());
    if (tiles == 0 || y.numel() == 0) {
      std::fill_n(weight, y.numel(), T{});
      return;
    }
    const bool wide = wide_vectors;
    const int64_t fitting = kGradientBytes / (kFrequencies * (input.channels + output.channels) * sizeof(T));
    const int64_t most = ceil_div(tiles, ceil_div(tiles, std::max(kLeastTiles, fitting)));
    const int64_t panels = block_panels(input, output, wide, torch::stable::get_num_threads());
    const int64_t in_blocks = ceil_div(input.panels(), panels), out_blocks = ceil_div(output.panels(), panels);
    const PanelShape in{input.channels, most}, out{output.channels, most};
    T* inputs = shared_scratch.numbers_of<T>(in.size() + out.size());
    T* gradients = inputs + in.size();
    const bool fetch = (in.size() + out.size()) * static_cast<int64_t>(sizeof(T)) > kNearBytes;
    for (int64_t first = 0; first < tiles; first += most) {
      const int64_t last = std::min(first + most, tiles);
      torch::stable::parallel_for(0, input.panels() + output.panels(), 1, [&](int64_t begin, int64_t end) {
        with_vectors(wide, [&](auto bytes) M2O_INLINED {
          using Vector = typename VectorOf<T, bytes>::Type;
          for (int64_t panel = begin; panel < end; ++panel) {
            if (panel < input.panels()) {
              to_frequencies<InputMap, Vector>(input, numbers<T>(image), panel, first, last, in, inputs);
            } else {
              to_frequencies<OutputAdjointMap, Vector>(output, numbers<T>(gradient), panel - input.panels(), first,
                                                       last, out, gradients);
            }
          }
        });
      });
      torch::stable::parallel_for(0, in_blocks * out_blocks, 1, [&](int64_t begin, int64_t end) {
        T* sums = own_scratch.numbers_of<T>(SumsShape{panels, panels}.size());
        with_vectors(wide, [&](auto bytes) M2O_INLINED {
          using Vector = typename VectorOf<T, bytes>::Type;
          for (int64_t item = begin; item < end; ++item) {
            const int64_t from = item / in_blocks * panels, to = item % in_blocks * panels;
            const SumsShape block{std::min(panels, output.panels() - from), std::min(panels, input.panels() - to)};
            weight_gradient_block<Vector>(gradients + from * out.panel(), out, inputs + to * in.panel(), in,
                                          last - first, block, fetch, first > 0, sums, shape,
                                          weight + shape.at(from * kPanel, to * kPanel));
          }
        });
      });
    }
  });
  return y;
}

}  // namespace

// Whether AVX-512 is used from now on: if it is wanted and there.
bool use_wide_vectors(bool wanted) { return wide_vectors = wanted && has_wide_vectors(); }

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (!runs_here()) {
    return;
  }
  m.impl("winograd_convolve", TORCH_BOX(&winograd_convolve));
  m.impl("winograd_by_weight", TORCH_BOX(&winograd_by_weight));
}

}  // namespace m2o_fast
