// How the host picks a kernel of adain_forward.cuh or adain_backward.cuh and starts it.
#pragma once

#include "adain_cuda.cuh"

namespace m2o_fast {

// What adain_cuda.h promises, where y is resampled.
const char* adain_forward_resampled_workspace(const AdainArguments& arguments, size_t& bytes);
const char* adain_backward_resampled_workspace(const AdainArguments& arguments, size_t& bytes);
const char* adain_forward_resampled(const AdainArguments& arguments, void* stream);
const char* adain_backward_resampled(const AdainArguments& arguments, void* stream);

namespace {

using Kernel = void (*)(AdainArguments, Plan);

// A kernel with its launch configuration.
class Launch {
 public:
  Launch(Kernel kernel, const Plan& plan, void* stream) : kernel_(kernel) {
    config_.blockDim = dim3(plan.threads);
    config_.dynamicSmemBytes = plan.shared_bytes;
    config_.stream = static_cast<cudaStream_t>(stream);
    const int64_t per_block = plan.route == Route::kLanes ? plan.threads / plan.columns : 1;
    const int64_t blocks = ceil_div(plan.tiles, per_block) * plan.parts;
    if (blocks > INT32_MAX) {
      error_ = cudaErrorInvalidConfiguration;
    }
    config_.gridDim = dim3(static_cast<unsigned>(blocks));
    if (plan.route == Route::kOnChip && plan.parts > 1) {
      cluster_.id = cudaLaunchAttributeClusterDimension;
      cluster_.val.clusterDim = {static_cast<unsigned>(plan.parts), 1, 1};
      config_.attrs = &cluster_;
      config_.numAttrs = 1;
    }
    constexpr size_t kWithoutAsking = 48 * 1024;
    if (plan.shared_bytes > kWithoutAsking) {
      set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(plan.shared_bytes));
      set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    }
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  cudaError_t run(const AdainArguments& a, const Plan& plan) {
    return error_ != cudaSuccess ? error_ : cudaLaunchKernelEx(&config_, kernel_, a, plan);
  }

  // Whether the GPU can run it in clusters at all: a slice of a GPU may be too small for clusters of large blocks, and
  // code that was compiled for an older GPU and translated for this one has no barrier over a cluster.
  bool possible_in_clusters() {
    const void* kernel = reinterpret_cast<const void*>(kernel_);
    cudaFuncAttributes attributes{};
    int clusters = 0;
    const bool good = error_ == cudaSuccess && cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess &&
                      attributes.ptxVersion >= 90 &&
                      cudaOccupancyMaxActiveClusters(&clusters, kernel, &config_) == cudaSuccess;
    cudaGetLastError();  // a refusal is an answer, not an error that torch should find
    return good && clusters > 0;
  }

 private:
  void set(cudaFuncAttribute attribute, int value) {
    if (error_ == cudaSuccess) {
      error_ = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_), attribute, value);
    }
  }

  Kernel kernel_;
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute cluster_{};
  cudaError_t error_ = cudaSuccess;
};

template <typename Pass, typename L>
cudaError_t make_plan(const AdainArguments& a, Plan& plan) {
  const Workload work{a.batch,
                      a.channels,
                      a.channels_last ? a.plane / L::kGroup : a.plane,
                      a.channels_last,
                      a.channels_last ? L::kVector : L::kVector * L::kGroup,
                      int(sizeof(typename L::Vector)) * L::kGroup,
                      int(sizeof(typename L::Real)),
                      Pass::kTensors,
                      kHeld<Route::kOnChip, Pass::kTensors> / L::kGroup,
                      kHeld<Route::kLanes, Pass::kTensors> / L::kGroup,
                      L::kOnChip};
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
  if constexpr (L::kOnChip) {
    const bool cluster = plan.route == Route::kOnChip && plan.parts > 1;
    if (cluster && !Launch(Pass::template kernel<L, Route::kOnChip>, plan, nullptr).possible_in_clusters()) {
      device.clusters = false;
      plan = plan_call(work, device);
    }
  }
  return cudaSuccess;
}

template <typename Pass, typename L>
cudaError_t launch(const AdainArguments& a, void* stream) {
  Plan plan;
  if (const cudaError_t error = make_plan<Pass, L>(a, plan); error != cudaSuccess) {
    return error;
  }
  if constexpr (L::kOnChip) {
    if (plan.route == Route::kOnChip) {
      return Launch(Pass::template kernel<L, Route::kOnChip>, plan, stream).run(a, plan);
    }
  }
  if constexpr (!L::kChannelsLast) {
    if (plan.route == Route::kLanes) {
      return Launch(Pass::template kernel<L, Route::kLanes>, plan, stream).run(a, plan);
    }
  }
  if (a.workspace == nullptr) {
    return cudaErrorInvalidValue;
  }
  const cudaError_t error = Launch(Pass::template kernel<L, Route::kPartial>, plan, stream).run(a, plan);
  return error != cudaSuccess ? error : Launch(Pass::template kernel<L, Route::kFinish>, plan, stream).run(a, plan);
}

template <typename Pass, typename L>
cudaError_t workspace_bytes(const AdainArguments& a, size_t& bytes) {
  Plan plan;
  const cudaError_t error = make_plan<Pass, L>(a, plan);
  const bool needed = error == cudaSuccess && plan.route == Route::kPartial;
  bytes = needed ? size_t(plan.parts) * kPartialNumbers * a.batch * a.channels * sizeof(typename L::Real) : 0;
  return error;
}

// Calls use(Layout<...>{}) for the layout of the arguments: 16-byte vectors where every row of them starts on 16 bytes.
template <Resample kResample, typename Element, typename Use>
cudaError_t with_layout(const AdainArguments& a, const Use& use) {
  constexpr int kFull =
      std::is_same_v<Element, double> ? 1 : 16 / sizeof(Element);  // float64 is for checks, not for speed
  const auto on_16 = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const int64_t row = a.channels_last ? a.channels : kResample == Resample::none ? a.plane : a.width;
  const bool full = row % kFull == 0 && on_16(a.x) && on_16(a.y) && on_16(a.grad) && on_16(a.grad_x);
  if (a.channels_last) {
    return full ? use(Layout<Element, kFull, true, kResample>{}) : use(Layout<Element, 1, true, kResample>{});
  }
  return full ? use(Layout<Element, kFull, false, kResample>{}) : use(Layout<Element, 1, false, kResample>{});
}

template <Resample kResample, typename Use>
cudaError_t with_layout_of(const AdainArguments& a, const Use& use) {
  switch (a.dtype) {
    case ElementType::float32:
      return with_layout<kResample, float>(a, use);
    case ElementType::float64:
      return with_layout<kResample, double>(a, use);
    case ElementType::float16:
      return with_layout<kResample, __half>(a, use);
    default:
      return with_layout<kResample, __nv_bfloat16>(a, use);
  }
}

template <typename Pass, Resample kResample>
const char* run(const AdainArguments& a, void* stream) {
  const cudaError_t error =
      with_layout_of<kResample>(a, [&](auto layout) { return launch<Pass, decltype(layout)>(a, stream); });
  return words_of(error);
}

template <typename Pass, Resample kResample>
const char* ask_workspace(const AdainArguments& a, size_t& bytes) {
  const cudaError_t error =
      with_layout_of<kResample>(a, [&](auto layout) { return workspace_bytes<Pass, decltype(layout)>(a, bytes); });
  return words_of(error);
}

}  // namespace
}  // namespace m2o_fast
