// adain_act and its backward on the GPU: y = LeakyReLU(scale * (x - mean) + beta), scale = ((1+)gamma) * rstd, per plane.
//
// Both kernels are bound by memory traffic, so they read x (and the gradient) once wherever a tile fits into the registers
// and the shared memory of a block or of a cluster of blocks; see adain_plan.h for the routes. Nothing is summed by atomics.
#include "adain_cuda.h"
#include "adain_plan.h"
#include "cuda_common.cuh"

namespace m2o_fast {
namespace {

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

// Registers decide how many vectors a thread can keep; the backward keeps two tensors.
template <Route kRoute, bool kBackward>
constexpr int kHeld = kRoute == Route::kLanes || kBackward ? 4 : 8;

template <typename L, Route kRoute>
constexpr int kMaxThreads = kRoute == Route::kOnChip ? on_chip_threads(L::kChannelsLast) : kLaneThreads;

template <Route kRoute>
constexpr int kMinBlocks = kRoute == Route::kOnChip ? 1 : kRoute == Route::kLanes ? 3 : 2;

// The vectors of one thread: `vectors` of them, from `offset` on in steps of `jump` elements.
struct Span {
  int64_t plane;   // the first plane they belong to, counted over batch and channels
  int64_t offset, jump;
  int vectors;     // counted over all chunks
  int part;
  int rank, ranks; // of this thread among those that share a part of a tile, and a column of it
  bool live;       // false: beyond the last plane; the thread only takes part in barriers
};

template <typename L, Route kRoute>
__device__ __forceinline__ Span thread_span(const AdainArguments& a, const Plan& plan) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  Span span;
  int count = plan.part_vectors;
  if constexpr (kRoute == Route::kLanes) {
    span.plane = int64_t(blockIdx.x) * (threads / plan.columns) + thread / plan.columns;
    span.live = span.plane < plan.tiles;
    span.rank = thread % plan.columns;
    span.ranks = plan.columns;
    span.part = 0;
    span.jump = span.ranks * L::kVector;
    span.offset = span.plane * a.plane + span.rank * L::kVector;
  } else {
    // The last pass runs backwards, so that it first meets what the pass before has left in the L2 cache.
    const unsigned block = kRoute == Route::kFinish ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int64_t tile = block / unsigned(plan.parts);
    span.part = static_cast<int>(block % unsigned(plan.parts));
    span.rank = thread / plan.columns;
    span.ranks = threads / plan.columns;
    const int64_t begin = int64_t(span.part) * plan.part_vectors;
    count = static_cast<int>(min(int64_t(count), plan.vectors - begin));
    if constexpr (L::kChannelsLast) {
      const int64_t across = a.channels / L::kVector, tiles = ceil_div(across, plan.columns);
      const int64_t image = tile / tiles, column = tile % tiles * plan.columns + thread % plan.columns;
      span.plane = image * a.channels + column * L::kVector;
      span.live = column < across;
      span.jump = span.ranks * a.channels;
      span.offset = (image * a.plane + begin + span.rank) * a.channels + column * L::kVector;
    } else {
      span.plane = tile;
      span.live = true;
      span.jump = span.ranks * L::kVector;
      span.offset = tile * a.plane + (begin + span.rank) * L::kVector;
    }
  }
  span.vectors = span.live && span.rank < count ? (count - span.rank - 1) / span.ranks + 1 : 0;
  return span;
}

template <int kCount, typename Vector, typename Element>
__device__ __forceinline__ void load_chunk(Vector (&held)[kCount], const Element* source, const Span& span, int chunk) {
  const Element* place = source + span.offset + chunk * kCount * span.jump;
  const int left = span.vectors - chunk * kCount;
#pragma unroll
  for (int k = 0; k < kCount; ++k, place += span.jump) {
    if (k < left) {
      held[k] = load_pack<Vector::kElements>(place);
    }
  }
}

// The place in shared memory of vector k of a chunk. Only the thread that wrote it reads it, so no barrier is needed.
template <int kCount, typename Vector>
__device__ __forceinline__ Vector& slot(Vector* slots, int chunk, int k) {
  return slots[(chunk * kCount + k) * blockDim.x + threadIdx.x];
}

template <int kCount, typename Vector>
__device__ __forceinline__ void keep_chunk(const Vector (&held)[kCount], Vector* slots, int chunk) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    slot<kCount>(slots, chunk, k) = held[k];
  }
}

template <typename Real>
__device__ __forceinline__ Real load_parameter(const void* parameter, AdainDtype dtype, int64_t offset) {
  switch (dtype) {
    case AdainDtype::float32: return static_cast<const float*>(parameter)[offset];
    case AdainDtype::float64: return static_cast<Real>(static_cast<const double*>(parameter)[offset]);
    case AdainDtype::float16: return widen(static_cast<const __half*>(parameter)[offset]);
    default: return widen(static_cast<const __nv_bfloat16*>(parameter)[offset]);
  }
}

// The map from x to y before the LeakyReLU. Forward and backward share it bit for bit: the sign decides about the slope.
template <typename L>
struct Affine {
  using Real = typename L::Real;
  Real mean[L::kPlanes], scale[L::kPlanes], shift[L::kPlanes];

  __device__ __forceinline__ void load(const AdainArguments& a, int64_t plane, int p, Real plane_mean, Real rstd) {
    const int64_t image = (plane + p) / a.channels, channel = (plane + p) % a.channels;
    const Real gamma = load_parameter<Real>(a.gamma, a.gamma_dtype, image * a.gamma_strides[0] + channel * a.gamma_strides[1]);
    mean[p] = plane_mean;
    scale[p] = (a.one_plus ? 1 + gamma : gamma) * rstd;
    shift[p] = load_parameter<Real>(a.beta, a.beta_dtype, image * a.beta_strides[0] + channel * a.beta_strides[1]);
  }

  __device__ __forceinline__ Real preactivation(Real deviation, int p) const { return fma(deviation, scale[p], shift[p]); }
};

// Count, mean and sum of squared deviations of a set of elements, per plane. Never the difference of two large sums: a flat
// plane has a variance near 0 and is amplified by up to 1/sqrt(eps).
template <typename Real, int kPlanes>
struct Moments {
  Real count = 0, mean[kPlanes] = {}, squares[kPlanes] = {};

  __device__ __forceinline__ void merge(const Moments& other) {
    if (other.count == 0) {
      return;
    }
    const Real total = count + other.count, share = other.count / total, weight = count * share;
    count = total;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Real difference = other.mean[p] - mean[p];
      mean[p] = fma(difference, share, mean[p]);
      squares[p] += fma(difference * difference, weight, other.squares[p]);
    }
  }

  // Moves the mean by sum / count, where `sum` is what the deviations from it add up to: the rounding error it had.
  __device__ __forceinline__ void correct(int p, Real sum) {
    const Real error = sum / count;
    mean[p] += error;
    squares[p] -= sum * error;
    squares[p] = squares[p] < 0 ? Real(0) : squares[p];
  }
};

template <typename L, int kCount>
__device__ __forceinline__ Moments<typename L::Real, L::kPlanes> chunk_moments(typename L::Vector (&held)[kCount],
                                                                                int left) {
  using Real = typename L::Real;
  Moments<Real, L::kPlanes> moments;
  Real sums[L::kPlanes] = {};
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < left) {
      moments.count += L::kVector / L::kPlanes;
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        sums[e % L::kPlanes] += held[k].get(e);
      }
    }
    held[k].forget_widened();
  }
  if (moments.count == 0) {
    return moments;
  }
#pragma unroll
  for (int p = 0; p < L::kPlanes; ++p) {
    moments.mean[p] = sums[p] / moments.count;
    sums[p] = 0;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < left) {
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        const Real deviation = held[k].get(e) - moments.mean[e % L::kPlanes];
        sums[e % L::kPlanes] += deviation;
        moments.squares[e % L::kPlanes] = fma(deviation, deviation, moments.squares[e % L::kPlanes]);
      }
    }
    held[k].forget_widened();
  }
#pragma unroll
  for (int p = 0; p < L::kPlanes; ++p) {
    moments.correct(p, sums[p]);
  }
  return moments;
}

// Sums over all threads that work on the tile.
template <Route kRoute, typename Real, int kCount>
__device__ __forceinline__ void sum_over_tile(Real (&values)[kCount], const Plan& plan, Real* scratch) {
  if constexpr (kRoute == Route::kLanes) {
    sum_over_lanes(values, plan.columns);
  } else {
    sum_over_block(values, plan.columns, kRoute == Route::kOnChip ? plan.parts : 1, scratch);
  }
}

// Merges the moments of all threads that work on the tile: `count` elements per plane.
template <Route kRoute, typename Real, int kPlanes>
__device__ __forceinline__ void merge_over_tile(Moments<Real, kPlanes>& moments, Real count, const Plan& plan, Real* scratch) {
  Real sums[kPlanes], rest[2 * kPlanes];
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    sums[p] = moments.count * moments.mean[p];
  }
  sum_over_tile<kRoute>(sums, plan, scratch);
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const Real mean = sums[p] / count, difference = moments.mean[p] - mean;
    rest[p] = moments.count * difference;
    rest[kPlanes + p] = fma(rest[p], difference, moments.squares[p]);
    moments.mean[p] = mean;
  }
  sum_over_tile<kRoute>(rest, plan, scratch + block_sum_scratch(blockDim.x, plan.columns, kPlanes));
  moments.count = count;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    moments.squares[p] = rest[kPlanes + p];
    moments.correct(p, rest[p]);
  }
}

// Elements per plane in a part of a tile.
template <typename L>
__device__ __forceinline__ typename L::Real part_count(const Plan& plan, int part) {
  const int64_t vectors = min(int64_t(plan.part_vectors), plan.vectors - int64_t(part) * plan.part_vectors);
  return static_cast<typename L::Real>(vectors * (L::kVector / L::kPlanes));
}

// Where the two numbers of a part and a plane lie in the workspace.
template <typename Real>
__device__ __forceinline__ Real* partial(const AdainArguments& a, int64_t part, int which) {
  return static_cast<Real*>(a.workspace) + (part * 2 + which) * a.batch * a.channels;
}

template <typename Real>
__device__ __forceinline__ Real* scratch_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<Real*>(shared_bytes);
}

// The shared memory behind the scratch; the size is scratch_bytes() of adain_plan.h.
template <typename L>
__device__ __forceinline__ typename L::Vector* slot_memory(const Plan& plan) {
  const size_t numbers = size_t(block_sum_scratch(blockDim.x, plan.columns, L::kPlanes)) * 3;
  const size_t bytes = (numbers * sizeof(typename L::Real) + 15) / 16 * 16;
  return reinterpret_cast<typename L::Vector*>(reinterpret_cast<unsigned char*>(scratch_memory<typename L::Real>()) + bytes);
}

// Calls use(vectors, offset) for every place of the thread, with one vector per tensor: from its registers, from shared memory
// or, on kFinish, by reading again.
template <typename L, Route kRoute, int kTensors, int kCount, typename Use>
__device__ __forceinline__ void for_each_vector(typename L::Vector (&held)[kTensors][kCount],
                                                const typename L::Element* const (&tensors)[kTensors], typename L::Vector* slots,
                                                const Span& span, const Plan& plan, const Use& use) {
  for (int chunk = plan.chunks - 1; chunk >= 0; --chunk) {
    if constexpr (kRoute == Route::kFinish) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        load_chunk(held[t], tensors[t], span, chunk);
      }
    }
    const bool in_registers = kRoute != Route::kOnChip || chunk == plan.chunks - 1;
    const int left = span.vectors - chunk * kCount;
    int64_t offset = span.offset + chunk * kCount * span.jump;
#pragma unroll
    for (int k = 0; k < kCount; ++k, offset += span.jump) {
      if (k < left) {
        typename L::Vector now[kTensors];
#pragma unroll
        for (int t = 0; t < kTensors; ++t) {
          now[t] = in_registers ? held[t][k] : slot<kCount>(slots, t * (plan.chunks - 1) + chunk, k);
        }
        use(now, offset);
      }
    }
  }
}

template <typename L, Route kRoute>
__global__ void __launch_bounds__((kMaxThreads<L, kRoute>), (kMinBlocks<kRoute>))
    forward_kernel(const AdainArguments a, const Plan plan) {
  using Real = typename L::Real;
  constexpr int kCount = kHeld<kRoute, false>, kPlanes = L::kPlanes;
  const Span span = thread_span<L, kRoute>(a, plan);
  const auto* x = static_cast<const typename L::Element*>(a.x);
  const typename L::Element* const tensors[1] = {x};
  typename L::Vector held[1][kCount];
  typename L::Vector* slots = slot_memory<L>(plan);
  Real* scratch = scratch_memory<Real>();
  Real count = Real(a.plane);
  Moments<Real, kPlanes> moments;
  if constexpr (kRoute == Route::kFinish) {
    for (int part = span.rank; span.live && part < plan.parts; part += span.ranks) {
      Moments<Real, kPlanes> of_part;
      of_part.count = part_count<L>(plan, part);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        of_part.mean[p] = partial<Real>(a, part, 0)[span.plane + p];
        of_part.squares[p] = partial<Real>(a, part, 1)[span.plane + p];
      }
      moments.merge(of_part);
    }
  } else {
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      load_chunk(held[0], x, span, chunk);
      moments.merge(chunk_moments<L>(held[0], span.vectors - chunk * kCount));
      if (kRoute == Route::kOnChip && chunk + 1 < plan.chunks) {
        keep_chunk(held[0], slots, chunk);
      }
    }
    if constexpr (kRoute == Route::kPartial) {
      count = part_count<L>(plan, span.part);
    }
  }
  merge_over_tile<kRoute>(moments, count, plan, scratch);
  if constexpr (kRoute == Route::kPartial) {
    if (span.rank == 0 && span.live) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        partial<Real>(a, span.part, 0)[span.plane + p] = moments.mean[p];
        partial<Real>(a, span.part, 1)[span.plane + p] = moments.squares[p];
      }
    }
  } else if (span.live) {
    Affine<L> affine;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Real rstd = 1 / sqrt(moments.squares[p] / count + Real(a.eps));
      affine.load(a, span.plane, p, moments.mean[p], rstd);
      if (span.rank == 0 && span.part == 0) {
        static_cast<Real*>(a.mean)[span.plane + p] = moments.mean[p];
        static_cast<Real*>(a.rstd)[span.plane + p] = rstd;
      }
    }
    auto* y = static_cast<typename L::Element*>(a.y);
    const Real slope = Real(a.slope);
    for_each_vector<L, kRoute>(held, tensors, slots, span, plan, [&](const typename L::Vector (&now)[1], int64_t offset) {
      typename L::Vector result;
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        const int p = e % kPlanes;
        const Real before = affine.preactivation(now[0].get(e) - affine.mean[p], p);
        result.set(e, before > 0 ? before : before * slope);
      }
      store_pack(y + offset, result);
    });
  }
  if (kRoute == Route::kOnChip && plan.parts > 1) {
    cluster_barrier();  // no block may leave while others read its shared memory
  }
}

// With g the gradient before the LeakyReLU and d = x - mean:
//   grad_beta = sum g,  grad_gamma = rstd sum g d,  grad_x = scale (g - grad_beta / P - d rstd grad_gamma / P).
template <typename L, Route kRoute>
__global__ void __launch_bounds__((kMaxThreads<L, kRoute>), (kMinBlocks<kRoute>))
    backward_kernel(const AdainArguments a, const Plan plan) {
  using Real = typename L::Real;
  constexpr int kCount = kHeld<kRoute, true>, kPlanes = L::kPlanes;
  const Span span = thread_span<L, kRoute>(a, plan);
  const auto *x = static_cast<const typename L::Element*>(a.x), *grad = static_cast<const typename L::Element*>(a.grad);
  const typename L::Element* const tensors[2] = {x, grad};
  typename L::Vector held[2][kCount];
  typename L::Vector* slots = slot_memory<L>(plan);
  const Real slope = Real(a.slope);
  Affine<L> affine;
  Real rstd[kPlanes] = {}, sums[2 * kPlanes] = {};  // sums of g, then of g d
#pragma unroll
  for (int p = 0; span.live && p < kPlanes; ++p) {
    rstd[p] = static_cast<const Real*>(a.rstd)[span.plane + p];
    affine.load(a, span.plane, p, static_cast<const Real*>(a.mean)[span.plane + p], rstd[p]);
  }
  if constexpr (kRoute == Route::kFinish) {
    for (int part = span.rank; span.live && part < plan.parts; part += span.ranks) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        sums[p] += partial<Real>(a, part, 0)[span.plane + p];
        sums[kPlanes + p] += partial<Real>(a, part, 1)[span.plane + p];
      }
    }
  } else {
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      load_chunk(held[0], x, span, chunk);
      load_chunk(held[1], grad, span, chunk);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (k < span.vectors - chunk * kCount) {
#pragma unroll
          for (int e = 0; e < L::kVector; ++e) {
            const int p = e % kPlanes;
            const Real deviation = held[0][k].get(e) - affine.mean[p];
            const Real outer = held[1][k].get(e);
            const Real g = affine.preactivation(deviation, p) > 0 ? outer : outer * slope;
            sums[p] += g;
            sums[kPlanes + p] = fma(g, deviation, sums[kPlanes + p]);
          }
        }
        held[0][k].forget_widened();
        held[1][k].forget_widened();
      }
      if (kRoute == Route::kOnChip && chunk + 1 < plan.chunks) {
        keep_chunk(held[0], slots, chunk);
        keep_chunk(held[1], slots, plan.chunks - 1 + chunk);
      }
    }
  }
  sum_over_tile<kRoute>(sums, plan, scratch_memory<Real>());
  if constexpr (kRoute == Route::kPartial) {
    if (span.rank == 0 && span.live) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        partial<Real>(a, span.part, 0)[span.plane + p] = sums[p];
        partial<Real>(a, span.part, 1)[span.plane + p] = sums[kPlanes + p];
      }
    }
  } else if (span.live) {
    Real mean_g[kPlanes], along[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Real grad_gamma = sums[kPlanes + p] * rstd[p];
      mean_g[p] = sums[p] / Real(a.plane);
      along[p] = grad_gamma * rstd[p] / Real(a.plane);
      if (span.rank == 0 && span.part == 0) {
        static_cast<Real*>(a.grad_gamma)[span.plane + p] = grad_gamma;
        static_cast<Real*>(a.grad_beta)[span.plane + p] = sums[p];
      }
    }
    auto* grad_x = static_cast<typename L::Element*>(a.grad_x);
    for_each_vector<L, kRoute>(held, tensors, slots, span, plan, [&](const typename L::Vector (&now)[2], int64_t offset) {
      typename L::Vector result;
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        const int p = e % kPlanes;
        const Real deviation = now[0].get(e) - affine.mean[p];
        const Real outer = now[1].get(e);
        const Real g = affine.preactivation(deviation, p) > 0 ? outer : outer * slope;
        result.set(e, affine.scale[p] * fma(-deviation, along[p], g - mean_g[p]));
      }
      store_pack(grad_x + offset, result);
    });
  }
  if (kRoute == Route::kOnChip && plan.parts > 1) {
    cluster_barrier();  // no block may leave while others read its shared memory
  }
}

// --- host -------------------------------------------------------------------------------------------------------------------

using Kernel = void (*)(AdainArguments, Plan);

template <typename L, bool kBackward, Route kRoute>
constexpr Kernel kernel_of() {
  if constexpr (kBackward) {
    return &backward_kernel<L, kRoute>;
  } else {
    return &forward_kernel<L, kRoute>;
  }
}

// Calls kernel<<<...>>>, or, without arguments, only asks whether the GPU can run it.
class Launch {
 public:
  Launch(Kernel kernel, const Plan& plan, void* stream) : kernel_(kernel) {
    config_.blockDim = dim3(plan.threads);
    config_.dynamicSmemBytes = plan.shared_bytes;
    config_.stream = static_cast<cudaStream_t>(stream);
    const int64_t per_block = plan.route == Route::kLanes ? plan.threads / plan.columns : 1;
    config_.gridDim = dim3(static_cast<unsigned>(ceil_div(plan.tiles, per_block) * plan.parts));
    if (plan.route == Route::kOnChip && plan.parts > 1) {
      cluster_.id = cudaLaunchAttributeClusterDimension;
      cluster_.val.clusterDim = {static_cast<unsigned>(plan.parts), 1, 1};
      config_.attrs = &cluster_;
      config_.numAttrs = 1;
    }
    constexpr size_t kWithoutAsking = 48 * 1024;
    if (plan.shared_bytes > kWithoutAsking) {
      error_ = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(plan.shared_bytes));
    }
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  cudaError_t run(const AdainArguments& a, const Plan& plan) {
    return error_ != cudaSuccess ? error_ : cudaLaunchKernelEx(&config_, kernel_, a, plan);
  }

  bool possible() {
    int clusters = 0;
    const bool good = error_ == cudaSuccess &&
                      cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(kernel_), &config_) == cudaSuccess;
    return good && clusters > 0;
  }

 private:
  Kernel kernel_;
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute cluster_{};
  cudaError_t error_ = cudaSuccess;
};

template <typename L, bool kBackward>
cudaError_t make_plan(const AdainArguments& a, Plan& plan) {
  const Workload work{a.batch, a.channels, a.plane, a.channels_last, L::kVector, int(sizeof(typename L::Vector)),
                      int(sizeof(typename L::Real)), kBackward ? 2 : 1, kHeld<Route::kOnChip, kBackward>,
                      kHeld<Route::kLanes, kBackward>};
  Device device{};
  int id = 0, major = 0;
  cudaError_t error = cudaGetDevice(&id);
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    error = error == cudaSuccess ? cudaDeviceGetAttribute(&value, attribute, id) : error;
  };
  ask(cudaDevAttrMultiProcessorCount, device.multiprocessors);
  ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_bytes);
  ask(cudaDevAttrComputeCapabilityMajor, major);
  device.clusters = major >= 9;
  if (error != cudaSuccess) {
    return error;
  }
  plan = plan_call(work, device);
  const bool cluster = plan.route == Route::kOnChip && plan.parts > 1;
  if (cluster && !Launch(kernel_of<L, kBackward, Route::kOnChip>(), plan, nullptr).possible()) {
    device.clusters = false;  // a slice of a GPU may be too small for it
    plan = plan_call(work, device);
  }
  return cudaSuccess;
}

template <typename L, bool kBackward>
cudaError_t launch(const AdainArguments& a, void* stream) {
  Plan plan;
  if (const cudaError_t error = make_plan<L, kBackward>(a, plan); error != cudaSuccess) {
    return error;
  }
  if (plan.route == Route::kPartial) {
    const cudaError_t error = Launch(kernel_of<L, kBackward, Route::kPartial>(), plan, stream).run(a, plan);
    return error != cudaSuccess ? error : Launch(kernel_of<L, kBackward, Route::kFinish>(), plan, stream).run(a, plan);
  }
  if constexpr (!L::kChannelsLast) {
    if (plan.route == Route::kLanes) {
      return Launch(kernel_of<L, kBackward, Route::kLanes>(), plan, stream).run(a, plan);
    }
  }
  return Launch(kernel_of<L, kBackward, Route::kOnChip>(), plan, stream).run(a, plan);
}

template <typename L, bool kBackward>
cudaError_t workspace_bytes(const AdainArguments& a, size_t& bytes) {
  Plan plan;
  const cudaError_t error = make_plan<L, kBackward>(a, plan);
  const bool needed = error == cudaSuccess && plan.route == Route::kPartial;
  bytes = needed ? size_t(plan.parts) * 2 * a.batch * a.channels * sizeof(typename L::Real) : 0;
  return error;
}

// Calls use(Layout<...>{}) for the layout of the arguments: 16-byte vectors where every row of them starts on 16 bytes.
template <typename Element, typename Use>
cudaError_t with_layout(const AdainArguments& a, const Use& use) {
  constexpr int kFull = std::is_same_v<Element, double> ? 1 : 16 / sizeof(Element);  // float64 is for checks, not for speed
  const auto on_16 = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool full = (a.channels_last ? a.channels : a.plane) % kFull == 0 && on_16(a.x) && on_16(a.y) && on_16(a.grad) && on_16(a.grad_x);
  if (a.channels_last) {
    return full ? use(Layout<Element, kFull, true>{}) : use(Layout<Element, 1, true>{});
  }
  return full ? use(Layout<Element, kFull, false>{}) : use(Layout<Element, 1, false>{});
}

template <typename Use>
cudaError_t with_layout_of(const AdainArguments& a, const Use& use) {
  switch (a.dtype) {
    case AdainDtype::float32: return with_layout<float>(a, use);
    case AdainDtype::float64: return with_layout<double>(a, use);
    case AdainDtype::float16: return with_layout<__half>(a, use);
    default: return with_layout<__nv_bfloat16>(a, use);
  }
}

template <bool kBackward>
const char* run(const AdainArguments& a, void* stream) {
  const cudaError_t error = with_layout_of(a, [&](auto layout) { return launch<decltype(layout), kBackward>(a, stream); });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <bool kBackward>
const char* ask_workspace(const AdainArguments& a, size_t& bytes) {
  const cudaError_t error = with_layout_of(a, [&](auto layout) { return workspace_bytes<decltype(layout), kBackward>(a, bytes); });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* adain_forward_workspace(const AdainArguments& arguments, size_t& bytes) { return ask_workspace<false>(arguments, bytes); }
const char* adain_backward_workspace(const AdainArguments& arguments, size_t& bytes) { return ask_workspace<true>(arguments, bytes); }
const char* adain_forward(const AdainArguments& arguments, void* stream) { return run<false>(arguments, stream); }
const char* adain_backward(const AdainArguments& arguments, void* stream) { return run<true>(arguments, stream); }

}  // namespace m2o_fast
