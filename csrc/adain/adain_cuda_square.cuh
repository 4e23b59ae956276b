// How the kernels in adain_forward.cuh and adain_backward.cuh read and write where y is larger or smaller than x.
#pragma once

#include "adain_cuda_layout.cuh"

namespace m2o_fast {
namespace {

// Where y is resampled, a unit of the smaller tensor belongs to two rows of the larger one, each of two units' width.
// This is their place there: kCount vectors, row after row.
template <typename L>
struct Square {
  // With kDown, a unit is half a vector, or a pixel: so x has one or two vectors in each of the rows.
  static constexpr int kAcross = L::kDown && !L::kOnePixel ? 1 : 2, kCount = 2 * kAcross;
  int64_t corner, down, across;  // steps to the next row and to the next vector

  __device__ __forceinline__ Square(const AdainArguments& a, const Plan& plan, const Span<typename L::Jump>& span,
                                    int number) {
    const int64_t unit = span.unit + int64_t(number) * span.ranks;
    const int64_t width = L::kDown ? a.width : 2 * a.width, plane = L::kDown ? a.plane : 4 * a.plane;
    const auto place = plan.by_row.divide(unit);
    const int64_t pixel = place.quotient * 2 * width + place.remainder * 2 * L::kWidth;
    corner = L::kChannelsLast ? (span.image * plane + pixel) * a.channels + span.channel
                              : (span.image * a.channels + span.channel) * plane + pixel;
    down = width * (L::kChannelsLast ? a.channels : 1);
    across = L::kChannelsLast ? a.channels : L::kVector;
  }

  __device__ __forceinline__ int64_t at(int which) const {
    return corner + which / kAcross * down + which % kAcross * across;
  }
};

// The sum of the square that becomes element e of a unit, from value(vector, element) in the square.
template <typename L, typename Value>
__device__ __forceinline__ typename L::Real sum_of_square(int e, const Value& value) {
  using S = Square<L>;
  if constexpr (L::kOnePixel) {
    return (value(0, e) + value(2, e)) + (value(1, e) + value(3, e));
  } else {
    const int left = 2 * e / L::kVector, place = 2 * e % L::kVector;
    return (value(left, place) + value(left + S::kAcross, place)) +
           (value(left, place + 1) + value(left + S::kAcross, place + 1));
  }
}

// Loads the vectors of x that belong to a unit and, for each, as many elements of the gradient of y, which is brought
// to the size of x. With kUp, four times as much of it is read as of x. It is summed as it is loaded: on the chip, that
// moves 6 planes through memory (4 of it, x and the result); summed by a kernel of its own it would be 8 (4, its result
// twice, x, grad_x). In two passes it is 11 to 10, less what the L2 cache holds; but planes of that size are rare.
// 16-bit sums are rounded here, as those of torch's own upsampling are.
template <typename L, int kTensors>
__device__ __forceinline__ void load_unit(typename L::Vector (*vectors)[kTensors],
                                          const typename L::Element* const (&tensors)[kTensors],
                                          const Square<L>& square, int64_t offset) {
  using Element = typename L::Element;
#pragma unroll
  for (int v = 0; v < L::kGroup; ++v) {
    vectors[v][0] = load_pack<Element, L::kVector>(tensors[0] + (L::kDown ? square.at(v) : offset));
  }
  if constexpr (kTensors == 2 && L::kUp) {
    typename L::Vector parts[Square<L>::kCount];
#pragma unroll
    for (int v = 0; v < Square<L>::kCount; ++v) {
      parts[v] = load_pack<Element, L::kVector>(tensors[1] + square.at(v));
    }
#pragma unroll
    for (int e = 0; e < L::kVector; ++e) {
      vectors[0][1].set(e, sum_of_square<L>(e, [&](int v, int place) { return parts[v].get(place); }));
    }
  } else if constexpr (kTensors == 2) {
    const auto unit = load_pack<Element, L::kUnit>(tensors[1] + offset);
#pragma unroll
    for (int v = 0; v < L::kGroup; ++v) {
#pragma unroll
      for (int e = 0; e < L::kVector; ++e) {
        vectors[v][1].set(e, unit.get(L::kOnePixel ? e : e / 2));
      }
    }
  }
}

// Of a unit's gradient, the share of each element of x.
template <typename L>
__device__ __forceinline__ typename L::Real share_of_gradient(typename L::Real outer) {
  return L::kDown ? outer * typename L::Real(0.25) : outer;
}

// Writes every element four times.
template <typename L>
__device__ __forceinline__ void store_square(typename L::Element* y, const Square<L>& square,
                                             const typename L::Vector& result) {
#pragma unroll
  for (int v = 0; v < Square<L>::kCount; ++v) {
    typename L::Vector part;
#pragma unroll
    for (int e = 0; e < L::kVector; ++e) {
      part.set(e, result.get(L::kOnePixel ? e : (v % 2 * L::kVector + e) / 2));
    }
    store_pack(y + square.at(v), part);
  }
}

// Writes the output of a unit: value(vector, element) of its vectors of x.
template <typename L, typename Value>
__device__ __forceinline__ void store_output(typename L::Element* y, const AdainArguments& a, const Plan& plan,
                                             const Span<typename L::Jump>& span, int64_t offset, int number,
                                             const Value& value) {
  if constexpr (L::kDown) {
    Pack<typename L::Element, L::kUnit> unit;
#pragma unroll
    for (int e = 0; e < L::kUnit; ++e) {
      unit.set(e, sum_of_square<L>(e, value) * typename L::Real(0.25));
    }
    store_pack(y + offset, unit);
  } else {
    typename L::Vector result;
#pragma unroll
    for (int e = 0; e < L::kVector; ++e) {
      result.set(e, value(0, e));
    }
    if constexpr (L::kUp) {
      store_square<L>(y, Square<L>(a, plan, span, number), result);
    } else {
      store_pack(y + offset, result);
    }
  }
}

}  // namespace
}  // namespace m2o_fast
