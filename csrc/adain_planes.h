// The adain kernels for contiguous x, [N, C, plane]: a plane is a run of numbers, and one thread does whole planes.
#pragma once

#include <algorithm>

#include "adain_cpu.h"

namespace m2o_fast {

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
      for_vectors<T>(block, [&](int64_t offset, auto count, int slot)
                                M2O_INLINED { sum.slot[slot] += load_lanes<T>(x + offset, count); });
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

// Planes [begin, end) of the N * C.
template <typename T>
M2O_INLINE void forward_planes(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  // Dividing and taking roots is a long chain of few operations. Where two planes fit the first-level cache, the next
  // plane's is done ahead, while this plane is written.
  const bool ahead = p.plane <= PLANE_BLOCK / 2;
  auto next = plane_coefficients(p, begin);
  for (int64_t plane = begin; plane < end; ++plane) {
    const auto c = ahead || plane == begin ? next : plane_coefficients(p, plane);
    if (ahead && plane + 1 < end) {
      next = plane_coefficients(p, plane + 1);
    }
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * p.plane;
    with_constant(p.streamed && is_aligned(y),
                  [&](auto streamed) M2O_INLINED { apply_plane(x, y, p.plane, c, p.slope, streamed); });
  }
  finish_streams();
}

template <typename T, typename Wide, typename Streamed>
M2O_INLINE void apply_gradient_to_plane(const T* grad, const T* x, T* out, int64_t size, Coefficients<Wide> c,
                                        GradientCoefficients<Wide> from, Wide slope, Streamed streamed) {
  for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
    const auto difference = load_lanes<T>(x + offset, count) - c.mean;
    const auto g = activate_gradient(load_lanes<T>(grad + offset, count), difference * c.scale + c.shift, slope);
    put(out + offset, (g - from.from_beta - difference * from.from_gamma) * c.scale, count, streamed);
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
    with_constant(p.streamed && is_aligned(out), [&](auto streamed) M2O_INLINED {
      apply_gradient_to_plane(grad, x, out, p.plane, c, from, p.slope, streamed);
    });
  }
  finish_streams();
}

}  // namespace m2o_fast
