// How the host picks a kernel of adain_forward.cuh or adain_backward.cuh and starts it.
#pragma once

#include "adain_cuda.cuh"
#include "cuda_device.cuh"

namespace m2o_fast {

// What adain_cuda.h promises, where y is resampled.
const char* adain_forward_resampled(const AdainArguments& arguments, const Workspace& workspace, void* stream);
const char* adain_backward_resampled(const AdainArguments& arguments, const Workspace& workspace, void* stream);

namespace {

using Kernel = void (*)(AdainArguments, Plan);

cudaLaunchAttribute cluster_of(int blocks) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  return attribute;
}

// The largest clusters of the largest blocks in which the GPU can run a kernel: a slice of a GPU may be too small for
// some, and code that was compiled for an older GPU and translated for this one has no barrier over a cluster.
cudaError_t find_most_cluster(Kernel kernel, int threads, const Device& device, int& most) {
  const void* pointer = reinterpret_cast<const void*>(kernel);
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, pointer);
  most = attributes.ptxVersion >= 90 ? device.most_cluster : 1;
  for (; error == cudaSuccess && most > 1; most /= 2) {
    cudaLaunchAttribute cluster = cluster_of(most);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(most);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = device.shared_bytes;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, pointer, &config) == cudaSuccess && clusters > 0) {
      break;
    }
    cudaGetLastError();  // a refusal is an answer, not an error that torch should find
  }
  return error;
}

// Allows the kernel of kOnChip all shared memory there is, once: a limit that changed from call to call would be in the
// way of other threads of the host. Then asks for `most_cluster`.
template <typename Pass, typename L>
cudaError_t prepare_on_chip(const Device& device, int& most_cluster) {
  static PerDevice<int> known;
  return known.get(most_cluster, [&](int, int& most) {
    const Kernel kernel = Pass::template kernel<L, Route::kOnChip>;
    const void* pointer = reinterpret_cast<const void*>(kernel);
    cudaError_t error = cudaFuncSetAttribute(pointer, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes);
    if (error == cudaSuccess) {
      error =
          cudaFuncSetAttribute(pointer, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    }
    return error == cudaSuccess ? find_most_cluster(kernel, on_chip_threads(L::kChannelsLast), device, most) : error;
  });
}

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
  DeviceFacts facts{};
  if (const cudaError_t error = ask_device(facts); error != cudaSuccess) {
    return error;
  }
  Device device{facts.multiprocessors, facts.shared_bytes, facts.major >= 9 ? kMaxCluster : 1};
  plan = plan_call(work, device);
  if constexpr (L::kOnChip) {
    if (plan.route == Route::kOnChip) {
      int most_cluster = 1;
      if (const cudaError_t error = prepare_on_chip<Pass, L>(device, most_cluster); error != cudaSuccess) {
        return error;
      }
      if (plan.parts > most_cluster) {
        device.most_cluster = most_cluster;
        plan = plan_call(work, device);
      }
    }
  }
  if constexpr (L::kUp || L::kDown) {
    plan.by_row = Divisor((L::kDown ? a.width / 2 : a.width) / L::kWidth);
  }
  return cudaSuccess;
}

template <typename Pass, typename L, Route kRoute>
cudaError_t start(const AdainArguments& a, const Plan& plan, void* stream) {
  const int64_t per_block = kRoute == Route::kLanes ? plan.threads / plan.columns : 1;
  const int64_t blocks = ceil_div(plan.tiles, per_block) * plan.parts;
  if (blocks > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(plan.threads);
  config.dynamicSmemBytes = plan.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute cluster = cluster_of(plan.parts);
  if (kRoute == Route::kOnChip && plan.parts > 1) {
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, Pass::template kernel<L, kRoute>, a, plan);
}

template <typename Pass, typename L>
cudaError_t launch(AdainArguments a, const Workspace& workspace, void* stream) {
  Plan plan;
  if (const cudaError_t error = make_plan<Pass, L>(a, plan); error != cudaSuccess) {
    return error;
  }
  if constexpr (L::kOnChip) {
    if (plan.route == Route::kOnChip) {
      return start<Pass, L, Route::kOnChip>(a, plan, stream);
    }
  }
  if constexpr (!L::kChannelsLast) {
    if (plan.route == Route::kLanes) {
      return start<Pass, L, Route::kLanes>(a, plan, stream);
    }
  }
  a.workspace = workspace(size_t(plan.parts) * kPartialNumbers * a.batch * a.channels * sizeof(typename L::Real));
  const cudaError_t error = start<Pass, L, Route::kPartial>(a, plan, stream);
  return error != cudaSuccess ? error : start<Pass, L, Route::kFinish>(a, plan, stream);
}

// Calls use(Layout<...>{}) for the layout of the arguments: 16-byte vectors where every row of them starts on 16 bytes.
template <Resample kResample, typename Element, typename Use>
cudaError_t with_layout(const AdainArguments& a, const Use& use) {
  constexpr int kFull =
      std::is_same_v<Element, double> ? 1 : 16 / sizeof(Element);  // float64 is for checks, not for speed
  const int64_t row = a.channels_last ? a.channels : kResample == Resample::none ? a.plane : a.width;
  const bool full =
      row % kFull == 0 && starts_on_16(a.x) && starts_on_16(a.y) && starts_on_16(a.grad) && starts_on_16(a.grad_x);
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
const char* run(const AdainArguments& a, const Workspace& workspace, void* stream) {
  const cudaError_t error =
      with_layout_of<kResample>(a, [&](auto layout) { return launch<Pass, decltype(layout)>(a, workspace, stream); });
  return words_of(error);
}

}  // namespace
}  // namespace m2o_fast
