// residual_merge and leaky_relu_down2 on the CPU. The definitions are the references in m2o_fast/ops/residual.py.
#include "residual_bindings.h"
#include "residual_cpu.h"
#include "residual_rows.h"
#include "tensor_cpu.h"

namespace m2o_fast {
namespace {

template <QuadOperation operation, typename T>
M2O_KERNEL void run_operation(const QuadProblem<T>& p, int64_t begin, int64_t end) {
  if (p.shape.channels_last) {
    do_pixel_rows<operation>(p, begin, end);
  } else {
    do_planar_rows<operation>(p, begin, end);
  }
}
template <typename T>
M2O_KERNEL void run_merge(const T* a, const T* b, T* y, int64_t begin, int64_t end, typename Simd<T>::Wide scale,
                          bool streamed) {
  merge_numbers(a, b, y, begin, end, scale, streamed);
}

template <typename T>
void run_rows(QuadOperation operation, const QuadProblem<T>& p, int64_t begin, int64_t end) {
  switch (operation) {
    case QuadOperation::merge_up2:
      return run_operation<QuadOperation::merge_up2>(p, begin, end);
    case QuadOperation::merge_down2:
      return run_operation<QuadOperation::merge_down2>(p, begin, end);
    case QuadOperation::backward_up2:
      return run_operation<QuadOperation::backward_up2>(p, begin, end);
    case QuadOperation::backward_down2:
      return run_operation<QuadOperation::backward_down2>(p, begin, end);
    case QuadOperation::leaky:
      return run_operation<QuadOperation::leaky>(p, begin, end);
    case QuadOperation::leaky_backward:
      return run_operation<QuadOperation::leaky_backward>(p, begin, end);
    case QuadOperation::leaky_tangent:
      return run_operation<QuadOperation::leaky_tangent>(p, begin, end);
  }
}

// Whether the outputs are to be written past the caches: they are large, and every vector of them is aligned.
template <typename T>
bool is_streamed(const QuadProblem<T>& p) {
  const int64_t coarse = p.shape.rows * p.shape.coarse_row();
  const int64_t numbers = (p.fine_out ? 4 * coarse : 0) + (p.coarse_out ? coarse : 0);
  const int64_t run = p.shape.channels_last ? p.shape.channels : p.shape.width;
  const auto size = static_cast<int64_t>(sizeof(T));
  return numbers * size >= kStreamedBytes && run * size % 16 == 0 && is_aligned(p.fine_out) && is_aligned(p.coarse_out);
}

struct Cpu {
  static void run(const QuadCall& call, const Tensor& x) {
    for_type(x.scalar_type(), [&](auto number) {
      using T = decltype(number);
      using Wide = typename Simd<T>::Wide;
      QuadProblem<T> p{call.shape,
                       static_cast<const T*>(call.fine),
                       static_cast<const T*>(call.along),
                       static_cast<const T*>(call.coarse),
                       static_cast<T*>(call.fine_out),
                       static_cast<T*>(call.coarse_out),
                       static_cast<Wide>(call.scale),
                       static_cast<Wide>(call.slope),
                       false};
      p.streamed = is_streamed(p);
      torch::stable::parallel_for(0, p.shape.rows, grain_size(2 * p.shape.fine_row()),
                                  [&](int64_t begin, int64_t end) { run_rows(call.operation, p, begin, end); });
    });
  }

  static void run(const MergeCall& call, const Tensor& x) {
    for_type(x.scalar_type(), [&](auto number) {
      using T = decltype(number);
      auto* y = static_cast<T*>(call.y);
      const auto scale = static_cast<typename Simd<T>::Wide>(call.scale);
      const bool streamed = call.count * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes && is_aligned(y);
      torch::stable::parallel_for(
          0, ceil_div(call.count, kMergeBlock), grain_size(kMergeBlock), [&](int64_t begin, int64_t end) {
            run_merge(static_cast<const T*>(call.a), static_cast<const T*>(call.b), y, begin * kMergeBlock,
                      std::min(end * kMergeBlock, call.count), scale, streamed);
          });
    });
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CPU, m) {
  if (runs_here()) {
    M2O_REGISTER_RESIDUAL(m, Cpu);
  }
}

}  // namespace m2o_fast
