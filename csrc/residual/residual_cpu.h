// The CPU kernels of the residual family. Free of torch: everything is inlined into the M2O_KERNEL functions of
// residual.cpp.
//
// Here are what they share and those for NCHW, which work on a spot: a vector of coarse numbers and, in each of two
// rows, the two neighbouring vectors of fine numbers that belong to it. Those for NHWC are in residual_rows.h.
#pragma once

#include <algorithm>

#include "lanes.h"
#include "residual_call.h"

namespace m2o_fast {

// The sums of neighbours in left and then right: half as many numbers.
M2O_INLINE Floats sums_of_neighbours(Floats left, Floats right) {
  return __builtin_shuffle(left, right, Words{0, 2, 4, 6, 8, 10, 12, 14}) +
         __builtin_shuffle(left, right, Words{1, 3, 5, 7, 9, 11, 13, 15});
}
M2O_INLINE Doubles sums_of_neighbours(Doubles left, Doubles right) {
  return __builtin_shuffle(left, right, LongWords{0, 2, 4, 6}) + __builtin_shuffle(left, right, LongWords{1, 3, 5, 7});
}
M2O_INLINE FloatPairs sums_of_neighbours(FloatPairs left, FloatPairs right) {
  const Floats first = left.even + left.odd, second = right.even + right.odd;
  return {__builtin_shuffle(first, second, Words{0, 2, 4, 6, 8, 10, 12, 14}),
          __builtin_shuffle(first, second, Words{1, 3, 5, 7, 9, 11, 13, 15})};
}

template <typename Vector>
struct Halves {
  Vector left, right;
};

// Every number twice: twice as many numbers.
M2O_INLINE Halves<Floats> doubled(Floats v) {
  return {__builtin_shuffle(v, Words{0, 0, 1, 1, 2, 2, 3, 3}), __builtin_shuffle(v, Words{4, 4, 5, 5, 6, 6, 7, 7})};
}
M2O_INLINE Halves<Doubles> doubled(Doubles v) {
  return {__builtin_shuffle(v, LongWords{0, 0, 1, 1}), __builtin_shuffle(v, LongWords{2, 2, 3, 3})};
}
M2O_INLINE Halves<FloatPairs> doubled(FloatPairs v) {
  const Floats first = __builtin_shuffle(v.even, v.odd, Words{0, 8, 1, 9, 2, 10, 3, 11});
  const Floats second = __builtin_shuffle(v.even, v.odd, Words{4, 12, 5, 13, 6, 14, 7, 15});
  return {{first, first}, {second, second}};
}

template <int64_t kCount>
using Lanes = std::integral_constant<int64_t, kCount>;

// Offsets of a spot in its tensors, and how many lanes of each vector are there.
template <int64_t kCoarse, int64_t kLeft, int64_t kRight>
struct Spot {
  int64_t coarse, left, right;  // left and right: in the upper fine row
  Lanes<kCoarse> coarse_count;
  Lanes<kLeft> left_count;
  Lanes<kRight> right_count;
};

// Calls body(offset, count) for all of `size` numbers: whole vectors, then ever smaller powers of two. The compiler
// knows every count, which spares calls of memcpy: planes of 8 x 8 have no whole vectors. Rows whose starts are all
// aligned need no pieces below 16 bytes.
template <int64_t kCount, int64_t kSmallest, typename Body>
M2O_INLINE void for_rest(int64_t offset, int64_t size, const Body& body) {
  if constexpr (kCount >= kSmallest) {
    if (size - offset >= kCount) {
      body(offset, Lanes<kCount>{});
      offset += kCount;
    }
    for_rest<kCount / 2, kSmallest>(offset, size, body);
  }
}
template <typename T, bool kAligned, typename Body>
M2O_INLINE void for_pieces(int64_t size, const Body& body) {
  int64_t offset = 0;
  for (; offset + kLanes<T> <= size; offset += kLanes<T>) {
    body(offset, AllLanes<T>{});
  }
  for_rest<kLanes<T> / 2, kAligned ? kLanes<T> / 2 : 1>(offset, size, body);
}

// A piece as a vector whose other lanes are 0: a multiple of 8 bytes, or 4 or 2. It is put together in registers:
// through memory, where small stores precede a large load, it would take five times as long.
template <int64_t kCount, typename T>
M2O_INLINE typename Simd<T>::Vector load_piece(const T* from, Lanes<kCount>) {
  if constexpr (kCount == kLanes<T>) {
    return load(from);
  } else {
    constexpr int64_t bytes = kCount * sizeof(T);
    const auto* place = reinterpret_cast<const char*>(from);
    LongWords words{};
    M2O_UNROLLED for (int64_t at = 0; at < bytes / 8; ++at) { words[at] = read_as<uint64_t>(place + 8 * at); }
    if constexpr (bytes == 4) {
      words[0] = read_as<uint32_t>(place);
    } else if constexpr (bytes == 2) {
      words[0] = read_as<uint16_t>(place);
    }
    return Simd<T>::widen((typename Simd<T>::Packed)words);
  }
}

// `streamed` demands an aligned `to`.
template <int64_t kCount, typename T, typename Streamed>
M2O_INLINE void put_piece(T* to, typename Simd<T>::Vector value, Lanes<kCount>, Streamed streamed) {
  if constexpr (kCount == kLanes<T>) {
    put(to, value, AllLanes<T>{}, streamed);
  } else if constexpr (kCount > 0) {
    constexpr int64_t bytes = kCount * sizeof(T);
    auto* place = reinterpret_cast<char*>(to);
    const auto words = (LongWords)Simd<T>::narrow(value);
    M2O_UNROLLED for (int64_t at = 0; at < bytes / 8; ++at) {
      const uint64_t word = words[at];
      std::memcpy(place + 8 * at, &word, 8);
    }
    if constexpr (bytes < 8) {
      const uint64_t word = words[0];
      std::memcpy(place, &word, bytes);
    }
  }
}

// The tensors of a call, typed.
template <typename T>
struct QuadProblem {
  using Wide = typename Simd<T>::Wide;
  QuadShape shape;
  const T* fine;
  const T* along;
  const T* coarse;
  T* fine_out;
  T* coarse_out;
  Wide scale, slope;
  bool streamed;
};

template <typename T, typename Where>
M2O_INLINE Halves<typename Simd<T>::Vector> load_halves(const T* from, const Where& spot) {
  return {load_piece(from + spot.left, spot.left_count), load_piece(from + spot.right, spot.right_count)};
}

template <typename T, typename Where, typename Streamed>
M2O_INLINE void put_halves(T* to, Halves<typename Simd<T>::Vector> values, const Where& spot, Streamed streamed) {
  put_piece(to + spot.left, values.left, spot.left_count, streamed);
  put_piece(to + spot.right, values.right, spot.right_count, streamed);
}

// The vector of coarse sums of use(fine row), which gives the Halves to be summed.
template <typename Use>
M2O_INLINE auto sum_of_quads(int64_t fine_row, const Use& use) {
  const auto upper = use(0), lower = use(fine_row);
  return sums_of_neighbours(upper.left + lower.left, upper.right + lower.right);
}

// One spot of each operation; see residual_call.h for their formulas.
template <QuadOperation operation, typename T, typename Where, typename Streamed>
M2O_INLINE void do_spot(const QuadProblem<T>& p, const Where& spot, Streamed streamed) {
  using Wide = typename Simd<T>::Wide;
  constexpr Wide quarter = Wide(0.25);
  const int64_t fine_row = p.shape.fine_row();
  if constexpr (operation == QuadOperation::merge_up2) {
    const auto added = doubled(load_piece(p.coarse + spot.coarse, spot.coarse_count));
    M2O_UNROLLED for (int64_t row = 0; row < 2 * fine_row; row += fine_row) {
      const auto a = load_halves(p.fine + row, spot);
      put_halves(p.fine_out + row, {(a.left + added.left) * p.scale, (a.right + added.right) * p.scale}, spot,
                 streamed);
    }
  } else if constexpr (operation == QuadOperation::merge_down2) {
    const auto sum = sum_of_quads(fine_row, [&](int64_t row) M2O_INLINED { return load_halves(p.fine + row, spot); });
    const auto a = load_piece(p.coarse + spot.coarse, spot.coarse_count);
    put_piece(p.coarse_out + spot.coarse, (a + sum * quarter) * p.scale, spot.coarse_count, streamed);
  } else if constexpr (operation == QuadOperation::backward_up2) {
    const auto sum = sum_of_quads(fine_row, [&](int64_t row) M2O_INLINED {
      const auto grad = load_halves(p.fine + row, spot);
      if (p.fine_out != nullptr) {
        put_halves(p.fine_out + row, {grad.left * p.scale, grad.right * p.scale}, spot, streamed);
      }
      return grad;
    });
    put_piece(p.coarse_out + spot.coarse, sum * p.scale, spot.coarse_count, streamed);
  } else if constexpr (operation == QuadOperation::backward_down2) {
    const auto grad = load_piece(p.coarse + spot.coarse, spot.coarse_count) * p.scale;
    const auto spread = doubled(grad * quarter);
    put_halves(p.fine_out, spread, spot, streamed);
    put_halves(p.fine_out + fine_row, spread, spot, streamed);
    if (p.coarse_out != nullptr) {
      put_piece(p.coarse_out + spot.coarse, grad, spot.coarse_count, streamed);
    }
  } else if constexpr (operation == QuadOperation::leaky_backward) {
    const auto grad = load_piece(p.coarse + spot.coarse, spot.coarse_count) * quarter;
    const auto steep = doubled(grad), flat = doubled(grad * p.slope);
    M2O_UNROLLED for (int64_t row = 0; row < 2 * fine_row; row += fine_row) {
      const auto x = load_halves(p.fine + row, spot);
      put_halves(p.fine_out + row,
                 {where_positive(x.left, steep.left, flat.left), where_positive(x.right, steep.right, flat.right)},
                 spot, streamed);
    }
  } else {  // leaky, leaky_tangent
    const auto sum = sum_of_quads(fine_row, [&](int64_t row) M2O_INLINED {
      const auto x = load_halves(p.fine + row, spot);
      if constexpr (operation == QuadOperation::leaky) {
        return decltype(x){activate(x.left, p.slope), activate(x.right, p.slope)};
      } else {
        const auto along = load_halves(p.along + row, spot);
        return decltype(x){activate_gradient(along.left, x.left, p.slope),
                           activate_gradient(along.right, x.right, p.slope)};
      }
    });
    put_piece(p.coarse_out + spot.coarse, sum * quarter, spot.coarse_count, streamed);
  }
}

// Coarse rows [begin, end).
template <QuadOperation operation, typename T>
M2O_INLINE void do_planar_rows(const QuadProblem<T>& p, int64_t begin, int64_t end) {
  with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t coarse = row * p.shape.coarse_row(), fine = 2 * row * p.shape.fine_row();
      for_pieces<T, streamed()>(p.shape.width, [&](int64_t at, auto count) M2O_INLINED {
        constexpr int64_t left = std::min<int64_t>(2 * count(), kLanes<T>), right = 2 * count() - left;
        const Spot<count(), left, right> spot{coarse + at, fine + 2 * at, fine + 2 * at + left, {}, {}, {}};
        do_spot<operation>(p, spot, streamed);
      });
    }
  });
  finish_streams();
}

constexpr int64_t kMergeBlock = 4096;  // numbers

// (a + b) * scale for numbers [begin, end); b may be missing.
template <typename T, typename Wide>
M2O_INLINE void merge_numbers(const T* a, const T* b, T* y, int64_t begin, int64_t end, Wide scale, bool streamed) {
  with_constant(streamed, [&](auto past_caches) M2O_INLINED {
    with_constant(b != nullptr, [&](auto two) M2O_INLINED {
      const auto merge = [&](int64_t offset, auto count) M2O_INLINED {
        const int64_t at = begin + offset;
        auto sum = load_piece(a + at, count);
        if constexpr (two) {
          sum += load_piece(b + at, count);
        }
        put_piece(y + at, sum * scale, count, past_caches);
      };
      for_pieces<T, false>(end - begin, merge);
    });
  });
  finish_streams();
}

}  // namespace m2o_fast
