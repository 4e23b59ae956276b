// What the two CPU kernels of the adain operators share, for planes (adain_planes.h) and for rows (adain_rows.h). Free
// of torch: everything is inlined into the M2O_KERNEL functions of adain.cpp.
//
// Numerics: a block of a plane is summed in float around a guess of its mean (the mean so far), and blocks are merged
// in double by Chan's update. So one read of x gives mean and variance without the cancellation of E[x^2] - E[x]^2, and
// the order of all sums depends on the size of the plane alone.
#pragma once

#include <cmath>

#include "lanes.h"
#include "resample.h"

namespace m2o_fast {

// One call of the forward or the backward operator. x, grad and out share a layout: [N, C, plane] or [N, plane, C].
// Those of them that belong to y have its plane, which differs where it is resampled.
template <typename T>
struct AdainProblem {
  using Wide = typename Simd<T>::Wide;
  int64_t channels, plane, height, width;  // of x: plane = height * width
  Resample resample;
  double inverse_plane;  // 1 / max(plane, 1)
  const T* x;
  const T* grad;  // backward only
  T* out;         // y, or the gradient of x
  PlaneNumbers<Wide> gamma, beta;
  double eps;
  Wide slope;
  bool one_plus, streamed;
  Wide* mean;  // [N, C], as the others: written by forward, read by backward
  Wide* rest;  // what rounding took from the mean
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
    const double share = count == 0 ? 1 : block_count / (count + block_count);
    squares += (sum_of_squares - sum * offset) + difference * difference * count * share;
    mean += difference * share;
    count += block_count;
  }
};

// What turns x into y in one plane: y = activation((x - mean) * scale + shift). `mean` is rounded to the type of x's
// sums; what the rounding lost is inside `shift`.
template <typename Wide>
struct Coefficients {
  Wide mean, scale, shift;
};

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE Coefficients<Wide> finish_statistics(const AdainProblem<T>& p, int64_t sample, int64_t channel,
                                                const Moments& moments) {
  const int64_t at = sample * p.channels + channel;
  const double variance = moments.squares * p.inverse_plane;
  const double rstd =
      1 / std::sqrt((variance < 0 ? 0 : variance) + p.eps);  // rounding may go below 0; NaN is passed on
  p.mean[at] = static_cast<Wide>(moments.mean);
  p.rest[at] = static_cast<Wide>(moments.mean - p.mean[at]);
  p.rstd[at] = static_cast<Wide>(rstd);
  const double scale = rstd * p.scale(sample, channel);
  const double shift = p.beta.at(sample, channel) - (moments.mean - p.mean[at]) * scale;
  return {p.mean[at], static_cast<Wide>(scale), static_cast<Wide>(shift)};
}

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE Coefficients<Wide> saved_coefficients(const AdainProblem<T>& p, int64_t sample, int64_t channel) {
  const int64_t at = sample * p.channels + channel;
  const Wide scale = p.rstd[at] * p.scale(sample, channel);
  const double shift = p.beta.at(sample, channel) - static_cast<double>(p.rest[at]) * scale;
  return {p.mean[at], scale, static_cast<Wide>(shift)};
}

// What turns grad and x into the gradient of x in one plane: (g - from_beta - (x - mean) * from_gamma) * scale, where g
// is the gradient behind the activation, `sum` its sum and `sum_of_products` that of g * (x - mean), with the rounded
// mean: the rest is taken into account here. Multiplying last keeps the difference exact where it should be 0: in flat
// planes, whose scale is large.
template <typename Wide>
struct GradientCoefficients {
  Wide from_beta, from_gamma;
};

template <typename T, typename Wide = typename Simd<T>::Wide>
M2O_INLINE GradientCoefficients<Wide> finish_gradients(const AdainProblem<T>& p, int64_t sample, int64_t channel,
                                                       double sum, double sum_of_products) {
  const int64_t at = sample * p.channels + channel;
  const double rstd = p.rstd[at], rest = p.rest[at];
  sum_of_products -= rest * sum;
  p.grad_gamma[at] = static_cast<Wide>(sum_of_products * rstd);
  p.grad_beta[at] = static_cast<Wide>(sum);
  const double from_gamma = sum_of_products * rstd * rstd * p.inverse_plane;
  return {static_cast<Wide>(sum * p.inverse_plane - rest * from_gamma), static_cast<Wide>(from_gamma)};
}

}  // namespace m2o_fast
