// The CPU kernels of scale_bias_act: y = activation(x * scale + bias) * next, with a scale, a bias and a next per
// plane. Free of torch: everything is inlined into the M2O_KERNEL functions of modulate.cpp.
//
// Every element is read and written once. Backward's sums over a plane are taken in the type of the sums over short
// pieces and in double over those, in an order that depends on the size of the plane alone.
#pragma once

#include <algorithm>
#include <vector>

#include "lanes.h"

namespace m2o_fast {

// What is applied to one plane.
template <typename Wide>
struct Chain {
  Wide scale, bias, next;
};

// One call of the forward or the backward operator. x, grad and out share a layout: [N, C, plane] or [N, plane, C].
template <typename T>
struct ModulateProblem {
  using Wide = typename Simd<T>::Wide;
  int64_t channels, plane;
  const T* x;
  const T* grad;                         // backward only
  T* out;                                // y, or the gradient of x
  PlaneNumbers<Wide> scale, bias, next;  // without data: 1, 0 and 1
  Wide slope;
  bool plain;  // nothing but scale: it is spared the rest
  bool streamed;
  Wide* grad_scale;  // [N, C], backward only; nullptr where there is no such vector
  Wide* grad_bias;
  Wide* grad_next;

  static M2O_INLINE Wide at(const PlaneNumbers<Wide>& vector, int64_t sample, int64_t channel, Wide absent) {
    return vector.data == nullptr ? absent : vector.at(sample, channel);
  }
  M2O_INLINE Chain<Wide> chain(int64_t sample, int64_t channel) const {
    return {at(scale, sample, channel, 1), at(bias, sample, channel, 0), at(next, sample, channel, 1)};
  }
};

// With z = x * scale + bias and h the gradient of y behind the activation but for `next`, which is constant in a plane:
// sums of h * x, h and h * z. The last one is the sum of gradient times activation(z).
template <typename Number>
struct ChainSums {
  Number products = {}, gradients = {}, activated = {};
};

template <typename T>
M2O_INLINE void finish_sums(const ModulateProblem<T>& p, int64_t sample, int64_t channel,
                            const ChainSums<double>& sums) {
  using Wide = typename Simd<T>::Wide;
  const int64_t at = sample * p.channels + channel;
  const double next = p.chain(sample, channel).next;
  if (p.grad_scale != nullptr) {
    p.grad_scale[at] = static_cast<Wide>(sums.products * next);
  }
  if (p.grad_bias != nullptr) {
    p.grad_bias[at] = static_cast<Wide>(sums.gradients * next);
  }
  if (p.grad_next != nullptr) {
    p.grad_next[at] = static_cast<Wide>(sums.activated);
  }
}

template <typename Vector, typename Coefficients, typename Wide, typename Plain>
M2O_INLINE Vector through_chain(Vector number, const Coefficients& c, Wide slope, Plain) {
  if constexpr (Plain::value) {
    return number * c.scale;
  } else {
    return activate(number * c.scale + c.bias, slope) * c.next;
  }
}

// Calls body(plain, streamed) with two constants. `to` is where the output of T's begins.
template <typename T, typename Body>
M2O_INLINE void with_plain_and_streamed(const ModulateProblem<T>& p, const T* to, const Body& body) {
  with_constant(p.plain, [&](auto plain) M2O_INLINED {
    with_constant(p.streamed && is_aligned(to), [&](auto streamed) M2O_INLINED { body(plain, streamed); });
  });
}

// --- contiguous: a plane is a run of numbers, and one thread does whole planes ---------------------------------------

template <typename T>
M2O_INLINE void chain_planes(const ModulateProblem<T>& p, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const auto c = p.chain(plane / p.channels, plane % p.channels);
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * p.plane;
    with_plain_and_streamed(p, y, [&](auto plain, auto streamed) M2O_INLINED {
      for_vectors<T>(p.plane, [&](int64_t offset, auto count, int) M2O_INLINED {
        put(y + offset, through_chain(load_lanes<T>(x + offset, count), c, p.slope, plain), count, streamed);
      });
    });
  }
  finish_streams();
}

// 0 in all but the first `count` lanes.
template <typename T>
M2O_INLINE typename Simd<T>::Vector keep_lanes(typename Simd<T>::Vector value, int64_t count) {
  typename Simd<T>::Wide numbers[kLanes<T>];
  Simd<T>::store_wide(numbers, value);
  std::fill(numbers + count, numbers + kLanes<T>, 0);
  return Simd<T>::load_wide(numbers);
}
template <typename T>
M2O_INLINE typename Simd<T>::Vector keep_lanes(typename Simd<T>::Vector value, AllLanes<T>) {
  return value;
}

// Writes the gradient of a piece of a plane and adds to its sums. Lanes that are not there have x and gradient 0, but
// their value is the bias, which may be infinite.
template <typename T, typename Wide, typename Plain, typename Streamed>
M2O_INLINE void chain_gradient_of_piece(const T* grad, const T* x, T* out, int64_t size, Chain<Wide> c, Wide slope,
                                        ChainSums<typename Simd<T>::Vector>& sums, Plain, Streamed streamed) {
  const Wide factor = c.scale * c.next;
  SlotSum<T> products, gradients, activated;
  for_vectors<T>(size, [&](int64_t offset, auto count, int slot) M2O_INLINED {
    const auto number = load_lanes<T>(x + offset, count);
    const auto outer = load_lanes<T>(grad + offset, count);
    if constexpr (Plain::value) {
      put(out + offset, outer * factor, count, streamed);
      products.slot[slot] += outer * number;
      return;
    }
    const auto value = number * c.scale + c.bias;
    const auto h = activate_gradient(outer, value, slope);
    put(out + offset, h * factor, count, streamed);
    products.slot[slot] += h * number;
    gradients.slot[slot] += h;
    activated.slot[slot] += keep_lanes<T>(h * value, count);
  });
  sums.products += products.over_slots();
  sums.gradients += gradients.over_slots();
  sums.activated += activated.over_slots();
}

template <typename T>
M2O_INLINE void chain_gradient_of_planes(const ModulateProblem<T>& p, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t sample = plane / p.channels, channel = plane % p.channels, first = plane * p.plane;
    const auto c = p.chain(sample, channel);
    ChainSums<double> total;
    with_plain_and_streamed(p, p.out + first, [&](auto plain, auto streamed) M2O_INLINED {
      for (int64_t block = 0; block < p.plane; block += kPlaneBlock) {
        const int64_t stop = std::min(block + kPlaneBlock, p.plane);
        ChainSums<typename Simd<T>::Vector> sums;
        for (int64_t piece = block; piece < stop; piece += kSumPiece) {
          const int64_t at = first + piece, size = std::min(kSumPiece, stop - piece);
          chain_gradient_of_piece(p.grad + at, p.x + at, p.out + at, size, c, p.slope, sums, plain, streamed);
        }
        total.products += sum_of(sums.products);
        total.gradients += sum_of(sums.gradients);
        total.activated += sum_of(sums.activated);
      }
    });
    finish_sums(p, sample, channel, total);
  }
  finish_streams();
}

// --- channels_last: a row of channels per pixel; one thread does a range of channels of one image --------------------

// Per channel of a range, filled up to a whole number of vectors: the chains, and the sums over the block at hand.
template <typename T>
struct ChainScratch {
  using Wide = typename Simd<T>::Wide;
  static constexpr int64_t kNumbers = 6;
  std::vector<Wide> numbers;
  std::vector<double> total_products, total_gradients, total_activated;
  int64_t size;

  explicit ChainScratch(int64_t channels) : size(ceil_div(channels, kTiledChannels) * kTiledChannels) {
    numbers.resize(kNumbers * size);
    for (auto* values : {&total_products, &total_gradients, &total_activated}) {
      values->resize(size);
    }
  }

  // As plain pointers, which the compiler keeps in registers while it stores through others.
  struct Rows {
    Wide *scale, *bias, *next, *products, *gradients, *activated;
  };
  M2O_INLINE Rows rows() {
    Wide* first = numbers.data();
    return {first, first + size, first + 2 * size, first + 3 * size, first + 4 * size, first + 5 * size};
  }

  M2O_INLINE void start(const ModulateProblem<T>& p, ChannelRange range) {
    const Rows to = rows();
    for (int64_t channel = range.begin; channel < range.end; ++channel) {
      const auto c = p.chain(range.sample, channel);
      to.scale[channel - range.begin] = c.scale;
      to.bias[channel - range.begin] = c.bias;
      to.next[channel - range.begin] = c.next;
    }
    for (auto* values : {&total_products, &total_gradients, &total_activated}) {
      std::fill(values->begin(), values->end(), 0);
    }
  }

  M2O_INLINE void clear_block() { std::fill(numbers.begin() + 3 * size, numbers.end(), 0); }

  M2O_INLINE void add_block(int64_t channels) {
    const Rows from = rows();
    for (int64_t at = 0; at < channels; ++at) {
      total_products[at] += from.products[at];
      total_gradients[at] += from.gradients[at];
      total_activated[at] += from.activated[at];
    }
  }
};

// body(offset, count) for every vector of a row of `size` numbers.
template <typename T, typename Body>
M2O_INLINE void for_row(int64_t size, const Body& body) {
  int64_t offset = 0;
  for (; offset + kLanes<T> <= size; offset += kLanes<T>) {
    body(offset, AllLanes<T>{});
  }
  if (offset < size) {
    body(offset, size - offset);
  }
}

template <typename T>
M2O_INLINE void chain_rows(const ModulateProblem<T>& p, ChannelRange range, ChainScratch<T>& scratch) {
  using S = Simd<T>;
  scratch.start(p, range);
  const auto rows = scratch.rows();
  const auto slope = p.slope;
  const int64_t first = range.sample * p.plane * p.channels + range.begin, size = range.end - range.begin;
  with_plain_and_streamed(p, p.out, [&](auto plain, auto streamed) M2O_INLINED {
    for (int64_t pixel = 0; pixel < p.plane; ++pixel) {
      const T* x = p.x + first + pixel * p.channels;
      T* y = p.out + first + pixel * p.channels;
      for_row<T>(size, [=](int64_t at, auto count) M2O_INLINED {
        const Chain<typename S::Vector> c{S::load_wide(rows.scale + at), S::load_wide(rows.bias + at),
                                          S::load_wide(rows.next + at)};
        put(y + at, through_chain(load_lanes<T>(x + at, count), c, slope, plain), count, streamed);
      });
    }
  });
  finish_streams();
}

// Writes the gradient of a row and adds to the sums of the block.
template <typename T, typename Wide, typename Plain, typename Streamed>
M2O_INLINE void chain_gradient_of_row(const T* grad, const T* x, T* out, int64_t size,
                                      typename ChainScratch<T>::Rows rows, Wide slope, Plain, Streamed streamed) {
  using S = Simd<T>;
  for_row<T>(size, [=](int64_t at, auto count) M2O_INLINED {
    const auto number = load_lanes<T>(x + at, count);
    const auto outer = load_lanes<T>(grad + at, count);
    const auto scale = S::load_wide(rows.scale + at);
    const auto add = [&](Wide* sum, auto value)
                         M2O_INLINED { S::store_wide(sum + at, S::load_wide(sum + at) + value); };
    if constexpr (Plain::value) {
      put(out + at, outer * scale, count, streamed);
      add(rows.products, outer * number);
    } else {
      const auto value = number * scale + S::load_wide(rows.bias + at);
      const auto h = activate_gradient(outer, value, slope);
      put(out + at, h * (scale * S::load_wide(rows.next + at)), count, streamed);
      add(rows.products, h * number);
      add(rows.gradients, h);
      add(rows.activated, h * value);
    }
  });
}

template <typename T>
M2O_INLINE void chain_gradient_of_rows(const ModulateProblem<T>& p, ChannelRange range, ChainScratch<T>& scratch) {
  scratch.start(p, range);
  const auto rows = scratch.rows();
  const int64_t first = range.sample * p.plane * p.channels + range.begin, size = range.end - range.begin;
  with_plain_and_streamed(p, p.out, [&](auto plain, auto streamed) M2O_INLINED {
    for (int64_t block = 0; block < p.plane; block += kBackwardRowBlock) {
      scratch.clear_block();
      for (int64_t pixel = block; pixel < std::min(block + kBackwardRowBlock, p.plane); ++pixel) {
        const int64_t at = first + pixel * p.channels;
        chain_gradient_of_row(p.grad + at, p.x + at, p.out + at, size, rows, p.slope, plain, streamed);
      }
      scratch.add_block(size);
    }
  });
  finish_streams();
  for (int64_t at = 0; at < size; ++at) {
    finish_sums(
        p, range.sample, range.begin + at,
        ChainSums<double>{scratch.total_products[at], scratch.total_gradients[at], scratch.total_activated[at]});
  }
}

}  // namespace m2o_fast
