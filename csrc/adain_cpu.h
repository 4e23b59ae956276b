// The CPU kernels of the adain operators, free of torch: everything here is inlined into the M2O_CLONES functions of
// adain.cpp. Definition: adain_act_reference in m2o_fast/ops/adain.py.
//
// Numerics: a block of a plane is summed in float around a guess of its mean (the mean so far), and blocks are merged in
// double by Chan's update. So one read of x gives mean and variance without the cancellation of E[x^2] - E[x]^2, and the
// order of all sums depends on the size of the plane alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace m2o_fast {

// gamma or beta: [N, C] with any strides; [C] has sample stride 0.
template <typename Wide>
struct Affine {
  const Wide* data;
  int64_t sample_stride, channel_stride;
  M2O_INLINE Wide at(int64_t sample, int64_t channel) const {
    return data[sample * sample_stride + channel * channel_stride];
  }
};

// One call of the forward or the backward operator. x, grad and out share a layout: [N, C, plane] or [N, plane, C].
template <typename T>
struct AdainProblem {
  using Wide = typename Simd<T>::Wide;
  int64_t channels, plane;
  const T* x;
  const T* grad;  // backward only
  T* out;         // y, or the gradient of x
  Affine<Wide> gamma, beta;
  double eps;
  Wide slope;
  bool one_plus, streamed;
  Wide* mean;  // [N, C]: written by forward, read by backward
  Wide* rstd;
  Wide* grad_gamma;  // [N, C], backward only
  Wide* grad_beta;

  M2O_INLINE Wide scale(int64_t sample, int64_t channel) const {
    return gamma.at(sample, channel) + (one_plus ? Wide(1) : Wide(0));
  }
};

// Count, mean and sum of squared deviations of the numbers so far.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Merges a block given by sum and sum of squares of (number - guess).
  M2O_INLINE void add(double block_count, double guess, double sum, double sum_of_squares) {
    const double offset = sum / block_count;
    const double difference = guess + offset - mean;
    const double share = block_count / (count + block_count);
    squares += (sum_of_squares - sum * offset) + difference * difference * count * share;
    mean += difference * share;
    count += block_count;
  }

  // Rounding may leave a variance of 0 below it; NaN is passed on.
  M2O_INLINE double rstd(double eps) const {
    const double variance = squares / std::max(count, 1.0);
    return 1 / std::sqrt((variance < 0 ? 0 : variance) + eps);
  }
};

// What turns x into y in one plane: y = activation((x - mean) * scale + shift). `mean` is rounded to the type of x's sums;
// what the rounding lost is inside `shift`.
template <typename Wide>
struct Coefficients {
  Wide mean, scale, shift;
};

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE Coefficients<Wide> finish_statistics(const AdainProblem<T>& p, int64_t sample, int64_t channel,
                                                const Moments& moments) {
  const int64_t at = sample * p.channels + channel;
  const double rstd = moments.rstd(p.eps);
  p.mean[at] = static_cast<Wide>(moments.mean);
  p.rstd[at] = static_cast<Wide>(rstd);
  const double scale = rstd * p.scale(sample, channel);
  const double shift = p.beta.at(sample, channel) - (moments.mean - p.mean[at]) * scale;
  return {p.mean[at], static_cast<Wide>(scale), static_cast<Wide>(shift)};
}

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE Coefficients<Wide> saved_coefficients(const AdainProblem<T>& p, int64_t sample, int64_t channel) {
  const int64_t at = sample * p.channels + channel;
  return {p.mean[at], p.rstd[at] * p.scale(sample, channel), p.beta.at(sample, channel)};
}

// What turns grad and x into the gradient of x in one plane: g * scale - from_beta - (x - mean) * from_gamma, where g is
// the gradient behind the activation, `sum` its sum and `sum_of_products` that of g * (x - mean).
template <typename Wide>
struct GradientCoefficients {
  Wide from_beta, from_gamma;
};

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE GradientCoefficients<Wide> finish_gradients(const AdainProblem<T>& p, int64_t sample, int64_t channel,
                                                       double sum, double sum_of_products) {
  const int64_t at = sample * p.channels + channel;
  const double rstd = p.rstd[at];
  const double scale = rstd * p.scale(sample, channel);
  const double count = std::max<double>(p.plane, 1);
  p.grad_gamma[at] = static_cast<Wide>(sum_of_products * rstd);
  p.grad_beta[at] = static_cast<Wide>(sum);
  return {static_cast<Wide>(sum / count * scale), static_cast<Wide>(sum_of_products * rstd * rstd / count * scale)};
}

// A number of lanes that is known when compiling: all of them.
template <typename T>
using AllLanes = std::integral_constant<int64_t, lanes<T>>;

template <typename T>
M2O_INLINE typename Simd<T>::Vector load_lanes(const T* from, AllLanes<T>) {
  return load(from);
}
template <typename T>
M2O_INLINE typename Simd<T>::Vector load_lanes(const T* from, int64_t count) {
  return load_first(from, count);
}
template <typename T>
M2O_INLINE void store_lanes(T* to, typename Simd<T>::Vector value, AllLanes<T>) {
  store(to, value);
}
template <typename T>
M2O_INLINE void store_lanes(T* to, typename Simd<T>::Vector value, int64_t count) {
  store_first(to, value, count);
}

// 1 in the first `count` lanes, 0 in the others.
template <typename T>
M2O_INLINE typename Simd<T>::Vector present_lanes(int64_t count) {
  typename Simd<T>::Vector present{};
  for (int64_t lane = 0; lane < lanes<T>; ++lane) {
    present[lane] = lane < count ? 1 : 0;
  }
  return present;
}
template <typename T>
M2O_INLINE typename Simd<T>::Vector present_lanes(AllLanes<T>) {
  return typename Simd<T>::Vector{} + 1;
}

template <typename Vector, typename Wide>
M2O_INLINE Vector activate(Vector value, Wide slope) {
  return value > 0 ? value : value * slope;
}

// The gradient behind the activation, from the gradient in front of it.
template <typename Vector, typename Wide>
M2O_INLINE Vector activate_gradient(Vector grad, Vector value, Wide slope) {
  return value > 0 ? grad : grad * slope;
}

// body(offset, count, slot) for every vector of `size` numbers. The four slots are for independent sums, which hide the
// latency of an addition.
template <typename T, typename Body>
M2O_INLINE void for_vectors(int64_t size, const Body& body) {
  int64_t offset = 0;
  for (; offset + 4 * lanes<T> <= size; offset += 4 * lanes<T>) {
    body(offset, AllLanes<T>{}, 0);
    body(offset + lanes<T>, AllLanes<T>{}, 1);
    body(offset + 2 * lanes<T>, AllLanes<T>{}, 2);
    body(offset + 3 * lanes<T>, AllLanes<T>{}, 3);
  }
  for (; offset + lanes<T> <= size; offset += lanes<T>) {
    body(offset, AllLanes<T>{}, 0);
  }
  if (offset < size) {
    body(offset, size - offset, 0);
  }
}

// --- contiguous x: a plane is a run of numbers --------------------------------------------------------------------------

constexpr int64_t PLANE_BLOCK = 4096;  // numbers: 16 KiB of float stay in the first-level cache

// Sums over one block in four slots.
template <typename T>
struct BlockSum {
  typename Simd<T>::Vector slot[4] = {};
  M2O_INLINE typename Simd<T>::Wide total() const { return sum_of((slot[0] + slot[1]) + (slot[2] + slot[3])); }
};

template <typename T>
M2O_INLINE Moments plane_moments(const T* x, int64_t size) {
  using Wide = typename Simd<T>::Wide;
  Moments moments;
  for (int64_t begin = 0; begin < size; begin += PLANE_BLOCK, x += PLANE_BLOCK) {
    const int64_t block = std::min(PLANE_BLOCK, size - begin);
    Wide guess = static_cast<Wide>(moments.mean);
    if (begin == 0) {
      BlockSum<T> sum;
      for_vectors<T>(block, [&](int64_t offset, auto count, int slot) M2O_INLINED {
        sum.slot[slot] += load_lanes<T>(x + offset, count);
      });
      guess = sum.total() / static_cast<Wide>(block);
    }
    BlockSum<T> sum, squares;
    for_vectors<T>(block, [&](int64_t offset, auto count, int slot) M2O_INLINED {
      const auto difference = (load_lanes<T>(x + offset, count) - guess) * present_lanes<T>(count);
      sum.slot[slot] += difference;
      squares.slot[slot] += difference * difference;
    });
    moments.add(static_cast<double>(block), guess, sum.total(), squares.total());
  }
  return moments;
}

template <bool streamed, typename T, typename Count>
M2O_INLINE void put(T* to, typename Simd<T>::Vector value, Count count) {
  if constexpr (streamed && std::is_same_v<Count, AllLanes<T>>) {
    stream(to, value);
  } else {
    store_lanes<T>(to, value, count);
  }
}

template <bool streamed, typename T, typename Wide>
M2O_INLINE void apply_plane(const T* x, T* y, int64_t size, Coefficients<Wide> c, Wide slope) {
  for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
    const auto value = (load_lanes<T>(x + offset, count) - c.mean) * c.scale + c.shift;
    put<streamed>(y + offset, activate(value, slope), count);
  });
}

template <typename T>
M2O_INLINE bool can_stream(const AdainProblem<T>& p, const T* to) {
  return p.streamed && reinterpret_cast<uintptr_t>(to) % 16 == 0;
}

// Planes [begin, end) of the N * C.
template <typename T>
M2O_INLINE void forward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * p.plane;
    const auto c = finish_statistics(p, plane / p.channels, plane % p.channels, plane_moments(x, p.plane));
    if (can_stream(p, y)) {
      apply_plane<true>(x, y, p.plane, c, p.slope);
    } else {
      apply_plane<false>(x, y, p.plane, c, p.slope);
    }
  }
  finish_streams();
}

template <bool streamed, typename T, typename Wide>
M2O_INLINE void apply_gradient_to_plane(const T* grad, const T* x, T* out, int64_t size, Coefficients<Wide> c,
                                        GradientCoefficients<Wide> from, Wide slope) {
  for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
    const auto difference = load_lanes<T>(x + offset, count) - c.mean;
    const auto g = activate_gradient(load_lanes<T>(grad + offset, count), difference * c.scale + c.shift, slope);
    put<streamed>(out + offset, g * c.scale - from.from_beta - difference * from.from_gamma, count);
  });
}

template <typename T>
M2O_INLINE void backward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t sample = plane / p.channels, channel = plane % p.channels;
    const T* x = p.x + plane * p.plane;
    const T* grad = p.grad + plane * p.plane;
    T* out = p.out + plane * p.plane;
    const auto c = saved_coefficients(p, sample, channel);
    double total = 0, total_of_products = 0;
    for (int64_t start = 0; start < p.plane; start += PLANE_BLOCK) {
      BlockSum<T> sum, products;
      for_vectors<T>(std::min(PLANE_BLOCK, p.plane - start), [&](int64_t offset, auto count, int slot) M2O_INLINED {
        // Lanes that are not there have gradient 0 and so add 0.
        const auto difference = load_lanes<T>(x + start + offset, count) - c.mean;
        const auto value = difference * c.scale + c.shift;
        const auto g = activate_gradient(load_lanes<T>(grad + start + offset, count), value, p.slope);
        sum.slot[slot] += g;
        products.slot[slot] += g * difference;
      });
      total += sum.total();
      total_of_products += products.total();
    }
    const auto from = finish_gradients(p, sample, channel, total, total_of_products);
    if (can_stream(p, out)) {
      apply_gradient_to_plane<true>(grad, x, out, p.plane, c, from, p.slope);
    } else {
      apply_gradient_to_plane<false>(grad, x, out, p.plane, c, from, p.slope);
    }
  }
  finish_streams();
}

}  // namespace m2o_fast
