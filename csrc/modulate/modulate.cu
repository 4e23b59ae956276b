// scale_bias_act and its backward on the GPU: one kernel each, and one that adds up the sums of the parts of a plane.
//
// With z = x * scale + bias and h the gradient behind the activation but for `next`, which is constant in a plane:
//   y = LeakyReLU(z) * next, grad_x = h * scale * next,
//   grad_scale = next * sum h x, grad_bias = next * sum h, grad_next = sum h z (which is sum grad * LeakyReLU(z)).
// All of it is bound by memory traffic; every element is read and written once. Nothing is summed by atomics.
#include "cuda_common.cuh"
#include "cuda_device.cuh"
#include "modulate_cuda.h"
#include "modulate_cuda_plan.h"

namespace m2o_fast {
namespace {

constexpr int kHeld = 4;  // vectors of each tensor that a thread reads at a time, to keep the memory busy
constexpr int kSums = 3;
constexpr int kMostColumns = 8;

template <typename Element_, int kVector_, bool kChannelsLast_>
struct Layout {
  using Element = Element_;
  using Real = Arithmetic<Element_>;
  using Vector = Pack<Element_, kVector_>;
  static constexpr int kVector = kVector_;
  static constexpr bool kChannelsLast = kChannelsLast_;
  // Planes that one vector belongs to; its element e is of plane e % kPlanes.
  static constexpr int kPlanes = kChannelsLast_ ? kVector_ : 1;
};

// The vectors of one thread in one unit: `vectors` of them, from `offset` on in steps of `jump` elements.
struct Span {
  int64_t image, channel;  // the first plane they belong to
  int64_t offset, jump;
  int vectors, part;
  bool live;    // false: beyond the last plane; the thread only takes part in barriers
  bool writes;  // the sums of its planes
};

template <typename L, bool kLanes>
__device__ __forceinline__ Span thread_span(const ModulateArguments& a, const ModulatePlan& plan, int64_t block) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  Span span{};
  int rank, ranks, count = plan.part_vectors;
  if constexpr (kLanes) {
    const int64_t plane = block * (threads / plan.columns) + thread / plan.columns;
    const auto place = plan.by_tiles.divide(plane);
    rank = thread % plan.columns;
    ranks = plan.columns;
    span.live = plane < plan.units;
    span.image = place.quotient;
    span.channel = place.remainder;
    span.offset = plane * a.plane + rank * L::kVector;
    span.jump = ranks * L::kVector;
  } else {
    const auto share = plan.by_parts.divide(block), place = plan.by_tiles.divide(share.quotient);
    rank = thread / plan.columns;
    ranks = threads / plan.columns;
    span.part = static_cast<int>(share.remainder);
    span.image = place.quotient;
    const int64_t begin = int64_t(span.part) * plan.part_vectors;
    count = static_cast<int>(min(int64_t(count), plan.vectors - begin));
    if constexpr (L::kChannelsLast) {
      const int64_t column = place.remainder * plan.columns + thread % plan.columns;
      span.live = column < a.channels / L::kVector;
      span.channel = column * L::kVector;
      span.offset = (span.image * a.plane + begin + rank) * a.channels + span.channel;
      span.jump = ranks * a.channels;
    } else {
      span.live = true;
      span.channel = place.remainder;
      span.offset = share.quotient * a.plane + (begin + rank) * L::kVector;
      span.jump = ranks * L::kVector;
    }
  }
  span.writes = span.live && rank == 0;
  span.vectors = span.live && rank < count ? (count - rank - 1) / ranks + 1 : 0;
  return span;
}

// What is applied to the planes of a thread.
template <typename L>
struct Chain {
  using Real = typename L::Real;
  Real scale[L::kPlanes], bias[L::kPlanes], next[L::kPlanes];

  __device__ __forceinline__ Chain(const ModulateArguments& a, const Span& span) {
    read(scale, a.scale, span, 1);
    read(bias, a.bias, span, 0);
    read(next, a.next, span, 1);
  }

 private:
  static __device__ __forceinline__ void read(Real (&numbers)[L::kPlanes], const PlaneNumbers& from, const Span& span,
                                              Real absent) {
    if (span.live && from.data != nullptr) {
      load_plane_numbers<typename L::Element>(numbers, from, span.image, span.channel);
    } else {
#pragma unroll
      for (Real& number : numbers) {
        number = absent;
      }
    }
  }
};

// Where the sums of a part lie in the workspace, [parts, kSums, N, C].
template <typename Real>
__device__ __forceinline__ Real* sums_of_part(const ModulateArguments& a, int64_t part, int which) {
  return static_cast<Real*>(a.workspace) + (part * kSums + which) * a.batch * a.channels;
}

// Adds up the sums of all threads of a team, `sums` [kSums][kPlanes], and writes them.
template <typename L, bool kLanes>
__device__ __forceinline__ void put_sums(const ModulateArguments& a, const ModulatePlan& plan, const Span& span,
                                         typename L::Real (&sums)[kSums * L::kPlanes], const Chain<L>& chain) {
  using Real = typename L::Real;
  if constexpr (kLanes) {
    sum_over_lanes(sums, plan.columns);
  } else {
    constexpr int kColumns = L::kChannelsLast ? kMostColumns : 1;
    __shared__ Real scratch[block_sum_scratch(kModulateThreads, kColumns, kSums * L::kPlanes)];
    sum_over_block(sums, plan.columns, 1, scratch);
  }
  if (span.writes) {
    const int64_t plane = span.image * a.channels + span.channel;
#pragma unroll
    for (int p = 0; p < 2 * L::kPlanes; ++p) {
      sums[p] *= chain.next[p % L::kPlanes];
    }
#pragma unroll
    for (int which = 0; which < kSums; ++which) {
      Real* to = plan.parts > 1 ? sums_of_part<Real>(a, span.part, which) : static_cast<Real*>(a.gradients[which]);
      if (to != nullptr) {
        store_run<L::kPlanes>(to + plane, sums + which * L::kPlanes);
      }
    }
  }
}

template <typename L, bool kLanes, bool kBackward>
__device__ __forceinline__ void run_unit(const ModulateArguments& a, const ModulatePlan& plan, int64_t block) {
  using Real = typename L::Real;
  constexpr int kPlanes = L::kPlanes;
  const Span span = thread_span<L, kLanes>(a, plan, block);
  const Chain<L> chain(a, span);
  const Real slope = Real(a.slope);
  const auto *x = static_cast<const typename L::Element*>(a.x), *grad = static_cast<const typename L::Element*>(a.grad);
  auto* out = static_cast<typename L::Element*>(a.out);
  Real sums[kSums * kPlanes] = {};
  for (int first = 0; first < span.vectors; first += kHeld) {
    typename L::Vector numbers[kHeld], outer[kHeld];
    const int64_t offset = span.offset + first * span.jump;
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (first + k < span.vectors) {
        numbers[k] = load_pack<typename L::Element, L::kVector>(x + offset + k * span.jump);
        if constexpr (kBackward) {
          outer[k] = load_pack<typename L::Element, L::kVector>(grad + offset + k * span.jump);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (first + k < span.vectors) {
        typename L::Vector result;
#pragma unroll
        for (int e = 0; e < L::kVector; ++e) {
          const int p = e % kPlanes;
          const Real number = numbers[k].get(e), z = fma(number, chain.scale[p], chain.bias[p]);
          if constexpr (kBackward) {
            const Real g = outer[k].get(e), h = z > 0 ? g : g * slope;
            result.set(e, h * (chain.scale[p] * chain.next[p]));
            sums[p] = fma(h, number, sums[p]);
            sums[kPlanes + p] += h;
            sums[2 * kPlanes + p] = fma(h, z, sums[2 * kPlanes + p]);
          } else {
            result.set(e, (z > 0 ? z : z * slope) * chain.next[p]);
          }
        }
        store_pack(out + offset + k * span.jump, result);
      }
    }
  }
  if constexpr (kBackward) {
    put_sums<L, kLanes>(a, plan, span, sums, chain);
  }
}

template <typename L, bool kLanes, bool kBackward>
__global__ void __launch_bounds__(kModulateThreads, 2)
    modulate_kernel(const ModulateArguments a, const ModulatePlan plan) {
  for (int64_t turn = blockIdx.x; turn < plan.turns; turn += gridDim.x) {
    run_unit<L, kLanes, kBackward>(a, plan, turn);
    if (kBackward && !kLanes && turn + gridDim.x < plan.turns) {
      __syncthreads();  // before the memory of the sums is used again
    }
  }
}

// Adds up the parts of each plane, in their order.
template <typename Real>
__global__ void __launch_bounds__(kModulateThreads) add_parts_kernel(const ModulateArguments a, int parts) {
  const int64_t planes = a.batch * a.channels;
  Real* to = static_cast<Real*>(a.gradients[blockIdx.y]);
  if (to == nullptr) {
    return;
  }
#pragma unroll 1
  for (int64_t plane = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; plane < planes;
       plane += int64_t(gridDim.x) * blockDim.x) {
    Real sum = 0;
    for (int part = 0; part < parts; ++part) {
      sum += sums_of_part<Real>(a, part, static_cast<int>(blockIdx.y))[plane];
    }
    to[plane] = sum;
  }
}

template <typename L, bool kBackward>
cudaError_t launch(ModulateArguments a, const Workspace& workspace, void* stream) {
  DeviceFacts device{};
  if (const cudaError_t error = ask_device(device); error != cudaSuccess) {
    return error;
  }
  const ModulatePlan plan =
      plan_modulate({a.batch, a.channels, a.plane, a.channels_last, L::kVector, kHeld}, device.multiprocessors);
  const bool adds_parts = kBackward && plan.parts > 1;
  if (adds_parts) {
    a.workspace = workspace(size_t(plan.parts) * kSums * a.batch * a.channels * sizeof(typename L::Real));
  }
  const auto on = static_cast<cudaStream_t>(stream);
  if (!L::kChannelsLast && plan.lanes) {
    modulate_kernel<L, !L::kChannelsLast, kBackward><<<plan.blocks, plan.threads, 0, on>>>(a, plan);
  } else {
    modulate_kernel<L, false, kBackward><<<plan.blocks, plan.threads, 0, on>>>(a, plan);
  }
  cudaError_t error = cudaGetLastError();
  if (adds_parts && error == cudaSuccess) {
    const int64_t blocks = std::min<int64_t>(ceil_div(a.batch * a.channels, kModulateThreads), 1024);
    const dim3 grid(static_cast<unsigned>(blocks), kSums);
    add_parts_kernel<typename L::Real><<<grid, kModulateThreads, 0, on>>>(a, plan.parts);
    error = cudaGetLastError();
  }
  return error;
}

// Calls use(Layout<...>{}) for the layout of the arguments: 16-byte vectors where every row of them starts on 16 bytes.
template <typename Element, typename Use>
cudaError_t with_layout(const ModulateArguments& a, const Use& use) {
  // float64 is for checks, not for speed
  constexpr int kFull = std::is_same_v<Element, double> ? 1 : 16 / sizeof(Element);
  const bool full = (a.channels_last ? a.channels : a.plane) % kFull == 0 && starts_on_16(a.x) &&
                    starts_on_16(a.grad) && starts_on_16(a.out);
  if (a.channels_last) {
    return full ? use(Layout<Element, kFull, true>{}) : use(Layout<Element, 1, true>{});
  }
  return full ? use(Layout<Element, kFull, false>{}) : use(Layout<Element, 1, false>{});
}

template <typename Use>
const char* with_layout_of(const ModulateArguments& a, const Use& use) {
  const cudaError_t error = [&] {
    switch (a.dtype) {
      case ElementType::float32:
        return with_layout<float>(a, use);
      case ElementType::float64:
        return with_layout<double>(a, use);
      case ElementType::float16:
        return with_layout<__half>(a, use);
      default:
        return with_layout<__nv_bfloat16>(a, use);
    }
  }();
  return words_of(error);
}

}  // namespace

const char* modulate_forward(const ModulateArguments& arguments, void* stream) {
  return with_layout_of(arguments, [&](auto layout) { return launch<decltype(layout), false>(arguments, {}, stream); });
}

const char* modulate_backward(const ModulateArguments& arguments, const Workspace& workspace, void* stream) {
  return with_layout_of(arguments,
                        [&](auto layout) { return launch<decltype(layout), true>(arguments, workspace, stream); });
}

}  // namespace m2o_fast
