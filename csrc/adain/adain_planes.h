// The adain kernels for contiguous x, [N, C, plane]: a plane is a run of numbers, and one thread does whole planes.
#pragma once

#include <algorithm>

#include "adain_cpu.h"

namespace m2o_fast {

// The difference in the first `count` lanes, 0 in the others.
template <typename T, typename Vector>
M2O_INLINE Vector in_present_lanes(Vector difference, int64_t count) {
  typename Simd<T>::Wide present[kLanes<T>];
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    present[lane] = lane < count ? 1 : 0;
  }
  return difference * Simd<T>::load_wide(present);
}
template <typename T, typename Vector>
M2O_INLINE Vector in_present_lanes(Vector difference, AllLanes<T>) {
  return difference;
}

template <typename T>
M2O_INLINE Moments plane_moments(const T* x, int64_t size) {
  using Wide = typename Simd<T>::Wide;
  Moments moments;
  for (int64_t begin = 0; begin < size; begin += kPlaneBlock, x += kPlaneBlock) {
    const int64_t block = std::min(kPlaneBlock, size - begin);
    Wide guess = static_cast<Wide>(moments.mean);
    if (begin == 0) {
      SlotSum<T> sum;
      for_vectors<T>(block, [&](int64_t offset, auto count, int slot)
                                M2O_INLINED { sum.slot[slot] += load_lanes<T>(x + offset, count); });
      guess = sum.total() / static_cast<Wide>(block);
    }
    SlotSum<T> sum, squares;
    for_vectors<T>(block, [&](int64_t offset, auto count, int slot) M2O_INLINED {
      const auto difference = in_present_lanes<T>(load_lanes<T>(x + offset, count) - guess, count);
      sum.slot[slot] += difference;
      squares.slot[slot] += difference * difference;
    });
    moments.add(static_cast<double>(block), guess, sum.total(), squares.total());
  }
  return moments;
}

template <typename T, typename Wide, typename Streamed>
M2O_INLINE void apply_plane(const T* x, T* y, int64_t size, Coefficients<Wide> c, Wide slope, Streamed streamed) {
  for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
    const auto value = (load_lanes<T>(x + offset, count) - c.mean) * c.scale + c.shift;
    put(y + offset, activate(value, slope), count, streamed);
  });
}

template <typename T>
M2O_INLINE auto plane_coefficients(const AdainProblem<T>& p, int64_t plane) {
  const Moments moments = plane_moments(p.x + plane * p.plane, p.plane);
  return finish_statistics(p, plane / p.channels, plane % p.channels, moments);
}

// Writes planes of y that are as large as those of x. Writers for the others are in adain_planes_resampled.h.
template <typename T>
struct PlaneWriter {
  M2O_INLINE explicit PlaneWriter(const AdainProblem<T>&) {}
  template <typename Wide>
  M2O_INLINE void write(const AdainProblem<T>& p, int64_t plane, Coefficients<Wide> c) {
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * p.plane;
    with_constant(p.streamed && is_aligned(y),
                  [&](auto streamed) M2O_INLINED { apply_plane(x, y, p.plane, c, p.slope, streamed); });
  }
};

// Planes [begin, end) of the N * C.
template <typename Writer, typename T>
M2O_INLINE void forward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  Writer writer(p);
  // Dividing and taking roots is a long chain of few operations. Where two planes fit the first-level cache, the next
  // plane's is done ahead, while this plane is written.
  const bool ahead = p.plane <= kPlaneBlock / 2;
  auto next = plane_coefficients(p, begin);
  for (int64_t plane = begin; plane < end; ++plane) {
    const auto c = ahead || plane == begin ? next : plane_coefficients(p, plane);
    if (ahead && plane + 1 < end) {
      next = plane_coefficients(p, plane + 1);
    }
    writer.write(p, plane, c);
  }
  finish_streams();
}

template <typename From, typename T, typename Wide, typename Streamed>
M2O_INLINE void apply_gradient_to_plane(const From* grad, const T* x, T* out, int64_t size, Coefficients<Wide> c,
                                        GradientCoefficients<Wide> from, Wide slope, Streamed streamed) {
  for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
    const auto difference = load_lanes<T>(x + offset, count) - c.mean;
    const auto g = activate_gradient(load_gradient<T>(grad + offset, count), difference * c.scale + c.shift, slope);
    put(out + offset, (g - from.from_beta - difference * from.from_gamma) * c.scale, count, streamed);
  });
}

template <typename T>
struct GradientSums {
  typename Simd<T>::Vector gradients = {}, products = {};
};

// Sums of the gradient g behind the activation and of g * (x - mean). They are far smaller than what they are sums of,
// so they are taken in short pieces: rounding errors grow with the length of a sum.
template <typename From, typename T, typename Wide>
M2O_INLINE GradientSums<T> gradient_sums(const AdainProblem<T>& p, const T* x, const From* grad, int64_t start,
                                         int64_t stop, Coefficients<Wide> c) {
  GradientSums<T> sums;
  for (int64_t begin = start; begin < stop; begin += kSumPiece) {
    SlotSum<T> gradients, products;
    for_vectors<T>(std::min(kSumPiece, stop - begin), [&](int64_t offset, auto count, int slot) M2O_INLINED {
      // Lanes that are not there have gradient 0 and so add 0.
      const auto difference = load_lanes<T>(x + begin + offset, count) - c.mean;
      const auto value = difference * c.scale + c.shift;
      const auto g = activate_gradient(load_gradient<T>(grad + begin + offset, count), value, p.slope);
      gradients.slot[slot] += g;
      products.slot[slot] += g * difference;
    });
    sums.gradients += gradients.over_slots();
    sums.products += products.over_slots();
  }
  return sums;
}

// The gradients of y's planes as large as those of x: here, they are so.
template <typename T>
struct PlaneGradient {
  M2O_INLINE explicit PlaneGradient(const AdainProblem<T>&) {}
  M2O_INLINE const T* scratch(const AdainProblem<T>& p, int64_t plane) { return p.grad + plane * p.plane; }
};

template <typename Gradient, typename T>
M2O_INLINE void backward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  Gradient gradient(p);
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t sample = plane / p.channels, channel = plane % p.channels;
    const T* x = p.x + plane * p.plane;
    const auto* grad = gradient.scratch(p, plane);
    T* out = p.out + plane * p.plane;
    const auto c = saved_coefficients(p, sample, channel);
    double total = 0, total_of_products = 0;
    for (int64_t start = 0; start < p.plane; start += kPlaneBlock) {
      const int64_t stop = std::min(start + kPlaneBlock, p.plane);
      const auto sums = gradient_sums(p, x, grad, start, stop, c);
      total += sum_of(sums.gradients);
      total_of_products += sum_of(sums.products);
    }
    const auto from = finish_gradients(p, sample, channel, total, total_of_products);
    with_constant(p.streamed && is_aligned(out), [&](auto streamed) M2O_INLINED {
      apply_gradient_to_plane(grad, x, out, p.plane, c, from, p.slope, streamed);
    });
  }
  finish_streams();
}

}  // namespace m2o_fast
