// The kernels of the residual family for channels_last images, [N, H, W, C]: a quad is four runs of C numbers.
//
// A batch of vectors, two cache lines, is done at one place of the quad before the next. Taken in turns vector by
// vector, the four places would make streamed writes eight times slower, and reads would be fetched too late.
#pragma once

#include "residual_cpu.h"

namespace m2o_fast {

template <typename T>
inline constexpr int64_t kBatch = 4 / kRegisters<T>;  // vectors

// `kParts` vectors, or a piece of one, in every run of a quad: those that begin `coarse` and `fine` numbers behind the
// beginnings of the coarse and of the fine images, the latter in the upper left run.
template <int64_t kParts_, int64_t kCount>
struct QuadPart {
  static constexpr int64_t kParts = kParts_;
  int64_t coarse, fine;
  Lanes<kCount> count;
};

// One part of a quad for each operation; see residual_call.h for their formulas.
template <typename T, typename Part, typename Streamed>
struct QuadWorker {
  using Wide = typename Simd<T>::Wide;
  using Vector = typename Simd<T>::Vector;
  static constexpr Wide kQuarter = Wide(0.25);
  const QuadProblem<T>& p;
  const Part& at;
  Streamed streamed;

  // body(k, offset) for the vectors from `offset` on.
  template <typename Body>
  static M2O_INLINE void for_vectors(int64_t offset, const Body& body) {
    M2O_UNROLLED for (int64_t k = 0; k < Part::kParts; ++k) { body(k, offset + k * kLanes<T>); }
  }
  // Writes body(k, offset) at all four places of the quad, every batch at once: a line whose parts are written at
  // different times would go out in parts.
  template <typename Body>
  M2O_INLINE void write_quad(const Body& body) const {
    M2O_UNROLLED for (int64_t which = 0; which < 4; ++which) {
      const int64_t place = at.fine + which / 2 * p.shape.fine_row() + which % 2 * p.shape.channels;
      Vector values[Part::kParts];
      for_vectors(place, [&](int64_t k, int64_t offset) M2O_INLINED { values[k] = body(k, offset); });
      for_vectors(place, [&](int64_t k, int64_t offset) M2O_INLINED { set(p.fine_out, offset, values[k]); });
    }
  }
  // The sums over the quad of use(offset), in the order of the other layout: columns first.
  template <typename Use>
  M2O_INLINE void sum_quad(Vector (&sums)[Part::kParts], const Use& use) const {
    const int64_t row = p.shape.fine_row();
    Vector right[Part::kParts];
    for_vectors(at.fine, [&](int64_t k, int64_t offset) M2O_INLINED { sums[k] = use(offset); });
    for_vectors(at.fine + row, [&](int64_t k, int64_t offset) M2O_INLINED { sums[k] += use(offset); });
    for_vectors(at.fine + p.shape.channels, [&](int64_t k, int64_t offset) M2O_INLINED { right[k] = use(offset); });
    for_vectors(at.fine + row + p.shape.channels,
                [&](int64_t k, int64_t offset) M2O_INLINED { sums[k] += right[k] + use(offset); });
  }
  M2O_INLINE Vector get(const T* from, int64_t offset) const { return load_piece(from + offset, at.count); }
  M2O_INLINE void set(T* to, int64_t offset, Vector value) const { put_piece(to + offset, value, at.count, streamed); }

  template <QuadOperation operation>
  M2O_INLINE void run() const {
    Vector coarse[Part::kParts];
    if constexpr (operation == QuadOperation::merge_up2) {
      for_vectors(at.coarse, [&](int64_t k, int64_t offset) M2O_INLINED { coarse[k] = get(p.coarse, offset); });
      write_quad([&](int64_t k, int64_t offset) M2O_INLINED { return (get(p.fine, offset) + coarse[k]) * p.scale; });
    } else if constexpr (operation == QuadOperation::merge_down2) {
      sum_quad(coarse, [&](int64_t offset) M2O_INLINED { return get(p.fine, offset); });
      for_vectors(at.coarse, [&](int64_t k, int64_t offset) M2O_INLINED {
        set(p.coarse_out, offset, (get(p.coarse, offset) + coarse[k] * kQuarter) * p.scale);
      });
    } else if constexpr (operation == QuadOperation::backward_up2) {
      sum_quad(coarse, [&](int64_t offset) M2O_INLINED { return get(p.fine, offset); });
      if (p.fine_out != nullptr) {
        write_quad([&](int64_t, int64_t offset) M2O_INLINED { return get(p.fine, offset) * p.scale; });
      }
      for_vectors(at.coarse,
                  [&](int64_t k, int64_t offset) M2O_INLINED { set(p.coarse_out, offset, coarse[k] * p.scale); });
    } else if constexpr (operation == QuadOperation::backward_down2) {
      for_vectors(at.coarse, [&](int64_t k, int64_t offset) M2O_INLINED {
        const Vector grad = get(p.coarse, offset) * p.scale;
        if (p.coarse_out != nullptr) {
          set(p.coarse_out, offset, grad);
        }
        coarse[k] = grad * kQuarter;
      });
      write_quad([&](int64_t k, int64_t) M2O_INLINED { return coarse[k]; });
    } else if constexpr (operation == QuadOperation::leaky_backward) {
      for_vectors(at.coarse,
                  [&](int64_t k, int64_t offset) M2O_INLINED { coarse[k] = get(p.coarse, offset) * kQuarter; });
      write_quad([&](int64_t k, int64_t offset)
                     M2O_INLINED { return activate_gradient(coarse[k], get(p.fine, offset), p.slope); });
    } else {  // leaky, leaky_tangent
      sum_quad(coarse, [&](int64_t offset) M2O_INLINED {
        const Vector x = get(p.fine, offset);
        if constexpr (operation == QuadOperation::leaky) {
          return activate(x, p.slope);
        } else {
          return activate_gradient(get(p.along, offset), x, p.slope);
        }
      });
      for_vectors(at.coarse,
                  [&](int64_t k, int64_t offset) M2O_INLINED { set(p.coarse_out, offset, coarse[k] * kQuarter); });
    }
  }
};

// Coarse rows [begin, end). A copy of p stays in registers: for all the compiler knows, what is written may be *p.
template <QuadOperation operation, typename T>
M2O_INLINE void do_pixel_rows(QuadProblem<T> p, int64_t begin, int64_t end) {
  constexpr int64_t batch = kBatch<T> * kLanes<T>;
  const int64_t channels = p.shape.channels, batched = channels / batch * batch;
  with_constant(p.streamed, [&](auto streamed) M2O_INLINED {
    const auto do_part = [&](auto part) M2O_INLINED {
      QuadWorker<T, decltype(part), decltype(streamed)>{p, part, streamed}.template run<operation>();
    };
    for (int64_t row = begin; row < end; ++row) {
      int64_t coarse = row * p.shape.coarse_row(), fine = 2 * row * p.shape.fine_row();
      for (int64_t pixel = 0; pixel < p.shape.width; ++pixel, coarse += channels, fine += 2 * channels) {
        for (int64_t at = 0; at < batched; at += batch) {
          do_part(QuadPart<kBatch<T>, kLanes<T>>{coarse + at, fine + at, {}});
        }
        for_pieces<T, streamed()>(channels - batched, [&](int64_t offset, auto count) M2O_INLINED {
          do_part(QuadPart<1, count()>{coarse + batched + offset, fine + batched + offset, {}});
        });
      }
    }
  });
  finish_streams();
}

}  // namespace m2o_fast
