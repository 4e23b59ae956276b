// adain_act_backward on the GPU: two sums over each plane, which are the gradients of beta and gamma, then the gradient
// of x.
#pragma once

#include "adain_launch.cuh"

namespace m2o_fast {
namespace {

// With g the gradient before the LeakyReLU and d = x - mean:
//   grad_beta = sum g,  grad_gamma = rstd sum g d,  grad_x = scale (g - grad_beta / P - d rstd grad_gamma / P).
// The sums are taken with the rounded mean, and corrected by its rest afterwards.
template <typename L, Route kRoute>
__global__ void __launch_bounds__((kMaxThreads<L, kRoute>), (kMinBlocks<kRoute>))
    backward_kernel(const AdainArguments a, const Plan plan) {
  using Real = typename L::Real;
  constexpr int kCount = kHeld<kRoute, 2>, kPlanes = L::kPlanes;
  const auto span = thread_span<L, kRoute>(a, plan);
  const int64_t plane = span.image * a.channels + span.channel;
  const auto *x = static_cast<const typename L::Element*>(a.x), *grad = static_cast<const typename L::Element*>(a.grad);
  const typename L::Element* const tensors[2] = {x, grad};
  typename L::Vector held[kCount][2];
  typename L::Vector* slots = slot_memory<L>(plan);
  const Real slope = Real(a.slope);
  if constexpr (kRoute != Route::kFinish) {
    load_chunk<L>(held, tensors, a, plan, span, 0);
  }
  Affine<L> affine(a, span);
  Real rstd[kPlanes] = {}, sums[2 * kPlanes] = {};  // sums of g, then of g d
  if (span.live) {
    Real mean[kPlanes], rest[kPlanes];
    load_run<kPlanes>(rstd, static_cast<const Real*>(a.rstd) + plane);
    load_run<kPlanes>(mean, static_cast<const Real*>(a.mean) + plane);
    load_run<kPlanes>(rest, rest_of_mean<const Real>(a) + plane);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      affine.normalise(p, mean[p], rest[p], rstd[p]);
    }
  }
  if constexpr (kRoute == Route::kFinish) {
    for (int part = span.rank; span.live && part < plan.parts; part += span.ranks) {
      Real of_part[2 * kPlanes];
      load_run<kPlanes>(of_part, partial<Real>(a, part, 0) + plane);
      load_run<kPlanes>(of_part + kPlanes, partial<Real>(a, part, 1) + plane);
#pragma unroll
      for (int i = 0; i < 2 * kPlanes; ++i) {
        sums[i] += of_part[i];
      }
    }
  } else {
    for (int chunk = 0;; ++chunk) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (k < span.vectors - chunk * kCount) {
#pragma unroll
          for (int e = 0; e < L::kVector; ++e) {
            const int p = e % kPlanes;
            const Real deviation = held[k][0].get(e) - affine.mean[p];
            const Real outer = share_of_gradient<L>(held[k][1].get(e));
            const Real g = affine.preactivation(deviation, p) > 0 ? outer : outer * slope;
            sums[p] += g;
            sums[kPlanes + p] = fma(g, deviation, sums[kPlanes + p]);
          }
        }
        held[k][0].forget_widened();
        held[k][1].forget_widened();
      }
      if (chunk + 1 == plan.chunks) {
        break;
      }
      if constexpr (kRoute == Route::kOnChip) {
        keep_chunk(held, slots, chunk);
      }
      load_chunk<L>(held, tensors, a, plan, span, chunk + 1);
    }
  }
  sum_over_tile<kRoute>(sums, plan, scratch_memory<Real>());
  if constexpr (kRoute == Route::kPartial) {
    if (span.writes) {
      store_run<kPlanes>(partial<Real>(a, span.part, 0) + plane, sums);
      store_run<kPlanes>(partial<Real>(a, span.part, 1) + plane, sums + kPlanes);
    }
  } else if (span.live) {
    Real rest[kPlanes], grad_gamma[kPlanes], mean_g[kPlanes], along[kPlanes];
    load_run<kPlanes>(rest, rest_of_mean<const Real>(a) + plane);  // read again: registers are scarce
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      grad_gamma[p] = fma(-rest[p], sums[p], sums[kPlanes + p]) * rstd[p];
      along[p] = grad_gamma[p] * rstd[p] / Real(a.plane);
      mean_g[p] = sums[p] / Real(a.plane) - rest[p] * along[p];
    }
    if (span.writes) {
      store_run<kPlanes>(static_cast<Real*>(a.grad_gamma) + plane, grad_gamma);
      store_run<kPlanes>(static_cast<Real*>(a.grad_beta) + plane, sums);
    }
    auto* grad_x = static_cast<typename L::Element*>(a.grad_x);
    const auto result_of = [&](const typename L::Vector(&now)[2]) {
      typename L::Vector result;
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        const int p = e % kPlanes;
        const Real deviation = now[0].get(e) - affine.mean[p];
        const Real outer = share_of_gradient<L>(now[1].get(e));
        const Real g = affine.preactivation(deviation, p) > 0 ? outer : outer * slope;
        result.set(e, affine.scale[p] * fma(-deviation, along[p], g - mean_g[p]));
      }
      return result;
    };
    for_each_unit<L, kRoute>(held, tensors, slots, a, span, plan,
                             [&](const typename L::Vector(*now)[2], int64_t offset, int number) {
                               if constexpr (L::kDown) {
                                 const Square<L> square(a, plan, span, number);
#pragma unroll
                                 for (int v = 0; v < L::kGroup; ++v) {
                                   store_pack(grad_x + square.at(v), result_of(now[v]));
                                 }
                               } else {
                                 store_pack(grad_x + offset, result_of(now[0]));
                               }
                             });
  }
  if (kRoute == Route::kOnChip && plan.parts > 1) {
    leave_cluster();
  }
}

struct Backward {
  static constexpr int kTensors = 2;
  template <typename L, Route kRoute>
  static constexpr Kernel kernel = &backward_kernel<L, kRoute>;
};

}  // namespace
}  // namespace m2o_fast
