// The kernels of residual_merge and leaky_relu_down2 on the GPU. All are bound by memory: a thread reads what it needs
// once, in accesses of 16 bytes where shape and alignment permit, and writes its results. Nothing is summed across
// threads.
#include "cuda_common.cuh"
#include "residual_cuda.h"
#include "residual_cuda_plan.h"

namespace m2o_fast {
namespace {

template <typename Element_, QuadAccess kAccess_>
struct QuadLayout {
  using Element = Element_;
  using Real = Arithmetic<Element_>;
  static constexpr QuadAccess kAccess = kAccess_;
  static constexpr int kCoarse = quad_numbers(kAccess, sizeof(Element));
  static constexpr int kFine = 2 * kCoarse;  // per row

  // The coarse number, among those of the thread, that a fine one of its row belongs to.
  static __device__ __forceinline__ int owner(int fine) {
    return kAccess == QuadAccess::runs ? fine / 2 : fine % kCoarse;
  }
};

// The numbers of one fine row.
template <typename L>
__device__ __forceinline__ void load_fine(typename L::Real (&numbers)[L::kFine], const void* images, int64_t left,
                                          int64_t right) {
  const auto* from = static_cast<const typename L::Element*>(images);
  if constexpr (L::kAccess == QuadAccess::runs) {
    load_numbers<L::kFine>(numbers, from + left);
  } else {
    load_numbers<L::kCoarse>(numbers, from + left);
    load_numbers<L::kCoarse>(numbers + L::kCoarse, from + right);
  }
}

template <typename L>
__device__ __forceinline__ void store_fine(void* images, const typename L::Real (&numbers)[L::kFine], int64_t left,
                                           int64_t right) {
  auto* to = static_cast<typename L::Element*>(images);
  if constexpr (L::kAccess == QuadAccess::runs) {
    store_numbers<L::kFine>(to + left, numbers);
  } else {
    store_numbers<L::kCoarse>(to + left, numbers);
    store_numbers<L::kCoarse>(to + right, numbers + L::kCoarse);
  }
}

// Which tensors an operation always has; see residual_call.h.
template <QuadOperation kOp>
struct Uses {
  static constexpr bool kFine = kOp != QuadOperation::backward_down2;
  static constexpr bool kAlong = kOp == QuadOperation::leaky_tangent;
  static constexpr bool kCoarse = kOp == QuadOperation::merge_up2 || kOp == QuadOperation::merge_down2 ||
                                  kOp == QuadOperation::backward_down2 || kOp == QuadOperation::leaky_backward;
  static constexpr bool kFineOut = kOp == QuadOperation::merge_up2 || kOp == QuadOperation::backward_up2 ||
                                   kOp == QuadOperation::backward_down2 || kOp == QuadOperation::leaky_backward;
  static constexpr bool kSum =
      kOp != QuadOperation::merge_up2 && kOp != QuadOperation::backward_down2 && kOp != QuadOperation::leaky_backward;
};

// What a fine number adds to the sum of its quad.
template <QuadOperation kOp, typename Real>
__device__ __forceinline__ Real share_of(Real fine, Real along, Real slope) {
  if constexpr (kOp == QuadOperation::leaky) {
    return fine > 0 ? fine : fine * slope;
  } else if constexpr (kOp == QuadOperation::leaky_tangent) {
    return fine > 0 ? along : along * slope;
  } else {
    return fine;
  }
}

// The fine output.
template <QuadOperation kOp, typename Real>
__device__ __forceinline__ Real spread_of(Real fine, Real coarse, Real scale, Real slope) {
  if constexpr (kOp == QuadOperation::merge_up2) {
    return (fine + coarse) * scale;
  } else if constexpr (kOp == QuadOperation::backward_up2) {
    return fine * scale;
  } else if constexpr (kOp == QuadOperation::backward_down2) {
    return coarse * scale * Real(0.25);
  } else {  // leaky_backward
    const Real grad = coarse * Real(0.25);
    return fine > 0 ? grad : grad * slope;
  }
}

// The coarse output.
template <QuadOperation kOp, typename Real>
__device__ __forceinline__ Real gathered(Real sum, Real coarse, Real scale) {
  if constexpr (kOp == QuadOperation::merge_down2) {
    return (coarse + sum * Real(0.25)) * scale;
  } else if constexpr (kOp == QuadOperation::backward_up2) {
    return sum * scale;
  } else if constexpr (kOp == QuadOperation::backward_down2) {
    return coarse * scale;
  } else {  // leaky, leaky_tangent
    return sum * Real(0.25);
  }
}

template <typename L, QuadOperation kOp>
__device__ __forceinline__ void do_spot(const QuadCall& call, const QuadSpot& spot) {
  using Real = typename L::Real;
  using Element = typename L::Element;
  using U = Uses<kOp>;
  const Real scale = Real(call.scale), slope = Real(call.slope);
  const int64_t fine_row = call.shape.fine_row();
  Real fine[2][L::kFine] = {}, along[2][L::kFine] = {}, coarse[L::kCoarse] = {}, sum[L::kCoarse] = {};
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if constexpr (U::kFine) {
      load_fine<L>(fine[row], call.fine, spot.left + row * fine_row, spot.right + row * fine_row);
    }
    if constexpr (U::kAlong) {
      load_fine<L>(along[row], call.along, spot.left + row * fine_row, spot.right + row * fine_row);
    }
  }
  if constexpr (U::kCoarse) {
    load_numbers<L::kCoarse>(coarse, static_cast<const Element*>(call.coarse) + spot.coarse);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
#pragma unroll
    for (int e = 0; e < L::kFine; ++e) {
      const int owner = L::owner(e);
      if constexpr (U::kSum) {
        sum[owner] += share_of<kOp>(fine[row][e], along[row][e], slope);
      }
      if constexpr (U::kFineOut) {
        fine[row][e] = spread_of<kOp>(fine[row][e], coarse[owner], scale, slope);
      }
    }
    if constexpr (U::kFineOut) {
      if (kOp != QuadOperation::backward_up2 || call.fine_out != nullptr) {
        store_fine<L>(call.fine_out, fine[row], spot.left + row * fine_row, spot.right + row * fine_row);
      }
    }
  }
  if constexpr (U::kSum || kOp == QuadOperation::backward_down2) {
    if (kOp != QuadOperation::backward_down2 || call.coarse_out != nullptr) {
#pragma unroll
      for (int e = 0; e < L::kCoarse; ++e) {
        coarse[e] = gathered<kOp>(sum[e], coarse[e], scale);
      }
      store_numbers<L::kCoarse>(static_cast<Element*>(call.coarse_out) + spot.coarse, coarse);
    }
  }
}

__device__ __forceinline__ int64_t first_item() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t items_per_turn() { return int64_t(gridDim.x) * blockDim.x; }

template <typename L, QuadOperation kOp>
__global__ void __launch_bounds__(kQuadThreads)
    quad_kernel(const QuadCall call, const QuadDivisors divisors, const int64_t spots) {
  for (int64_t item = first_item(); item < spots; item += items_per_turn()) {
    do_spot<L, kOp>(call, quad_spot<L::kAccess>(call.shape, divisors, L::kCoarse, item));
  }
}

// Items are packs of kVector numbers, and behind them the numbers that do not fill one.
template <typename Element, int kVector>
__global__ void __launch_bounds__(kQuadThreads) merge_kernel(const MergeCall call, const int64_t packs) {
  using Real = Arithmetic<Element>;
  const Real scale = Real(call.scale);
  const auto *a = static_cast<const Element*>(call.a), *b = static_cast<const Element*>(call.b);
  auto* y = static_cast<Element*>(call.y);
  const int64_t items = packs + (call.count - packs * kVector);
  for (int64_t item = first_item(); item < items; item += items_per_turn()) {
    if (item < packs) {
      Real numbers[kVector], more[kVector] = {};
      load_numbers<kVector>(numbers, a + item * kVector);
      if (b != nullptr) {
        load_numbers<kVector>(more, b + item * kVector);
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        numbers[e] = (b != nullptr ? numbers[e] + more[e] : numbers[e]) * scale;
      }
      store_numbers<kVector>(y + item * kVector, numbers);
    } else {
      const int64_t at = item - packs + packs * kVector;
      const Real number = widen(a[at]);
      y[at] = narrow<Element>((b != nullptr ? number + widen(b[at]) : number) * scale);
    }
  }
}

template <typename L, QuadOperation kOp>
void launch(const QuadCall& call, cudaStream_t stream) {
  const int64_t spots = call.shape.rows * call.shape.coarse_row() / L::kCoarse;
  const QuadDivisors divisors(call.shape);
  quad_kernel<L, kOp><<<static_cast<unsigned>(quad_blocks(spots)), kQuadThreads, 0, stream>>>(call, divisors, spots);
}

template <typename L>
void launch_operation(const QuadCall& call, cudaStream_t stream) {
  switch (call.operation) {
    case QuadOperation::merge_up2:
      return launch<L, QuadOperation::merge_up2>(call, stream);
    case QuadOperation::merge_down2:
      return launch<L, QuadOperation::merge_down2>(call, stream);
    case QuadOperation::backward_up2:
      return launch<L, QuadOperation::backward_up2>(call, stream);
    case QuadOperation::backward_down2:
      return launch<L, QuadOperation::backward_down2>(call, stream);
    case QuadOperation::leaky:
      return launch<L, QuadOperation::leaky>(call, stream);
    case QuadOperation::leaky_backward:
      return launch<L, QuadOperation::leaky_backward>(call, stream);
    case QuadOperation::leaky_tangent:
      return launch<L, QuadOperation::leaky_tangent>(call, stream);
  }
}

template <typename Element>
void launch_quads(const QuadCall& call, cudaStream_t stream) {
  const bool aligned = starts_on_16(call.fine) && starts_on_16(call.along) && starts_on_16(call.coarse) &&
                       starts_on_16(call.fine_out) && starts_on_16(call.coarse_out);
  const QuadAccess access = quad_access(call.shape, sizeof(Element), aligned);
  if constexpr (sizeof(Element) < 8) {
    if (access == QuadAccess::runs) {
      return launch_operation<QuadLayout<Element, QuadAccess::runs>>(call, stream);
    }
    if (access == QuadAccess::pixels) {
      return launch_operation<QuadLayout<Element, QuadAccess::pixels>>(call, stream);
    }
  }
  launch_operation<QuadLayout<Element, QuadAccess::single>>(call, stream);
}

template <typename Element>
void launch_merge(const MergeCall& call, cudaStream_t stream) {
  constexpr int kVector = 16 / sizeof(Element);
  const int64_t packs = starts_on_16(call.a) && starts_on_16(call.b) && starts_on_16(call.y) ? call.count / kVector : 0;
  const auto blocks = static_cast<unsigned>(quad_blocks(packs + (call.count - packs * kVector)));
  merge_kernel<Element, kVector><<<blocks, kQuadThreads, 0, stream>>>(call, packs);
}

// Calls use with a number of the element type.
template <typename Use>
const char* with_type(ElementType dtype, const Use& use) {
  switch (dtype) {
    case ElementType::float32:
      use(float{});
      break;
    case ElementType::float64:
      use(double{});
      break;
    case ElementType::float16:
      use(__half{});
      break;
    default:
      use(__nv_bfloat16{});
  }
  return words_of(cudaGetLastError());
}

}  // namespace

const char* run_quads(const QuadCall& call, void* stream) {
  return with_type(call.dtype,
                   [&](auto number) { launch_quads<decltype(number)>(call, static_cast<cudaStream_t>(stream)); });
}

const char* run_merge(const MergeCall& call, void* stream) {
  return with_type(call.dtype,
                   [&](auto number) { launch_merge<decltype(number)>(call, static_cast<cudaStream_t>(stream)); });
}

}  // namespace m2o_fast
