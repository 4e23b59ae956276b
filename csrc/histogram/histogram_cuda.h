// The CUDA side of the histogram operators as the bindings see it: plain pointers, sizes and a stream; no torch, no
// CUDA header.
//
// The definitions are the references in m2o_fast/ops/histogram.py and m2o_fast/ops/soft_histogram.py.
#pragma once

#include <cstdint>

#include "histogram.h"

namespace m2o_fast {

// What kernels find wrong with their input, as bits of one int32 on the device, which is 0 at the call.
constexpr int32_t kNotFinite = 1, kWrongGroup = 2;

// All functions work on the current device and return nullptr, or CUDA's words for what went wrong. Without read_status
// nothing waits for the device.

// colors: [count, 3] as for the CPU. workspace: foreground_color_workspace(images) float64 numbers.
int64_t foreground_color_workspace(const Images& images);
const char* foreground_color_cuda(const Images& images, const Images* content, void* colors, double* workspace,
                                  void* stream);

// A colour with a wrong group is counted nowhere.
struct GroupedColors {
  Images colors;         // one image of 1 x N pixels, not uint8
  const int64_t* group;  // N numbers `group_stride` elements apart, or nullptr: all belong to group 0
  int64_t group_stride, groups;
  int32_t bins;

  constexpr int64_t cells() const { return int64_t{bins} * bins * bins; }
};

// counts: [groups, bins^3], holding 0 at the call.
const char* color_histogram_cuda(const GroupedColors& colors, int64_t* counts, int32_t* status, void* stream);

// counts: [count], holding 0 at the call. workspace: unique_color_workspace(images, bits) words.
int64_t unique_color_workspace(const Images& images, int32_t bits);
const char* unique_color_count_cuda(const Images& images, int32_t bits, int64_t* counts, uint32_t* workspace,
                                    int32_t* status, void* stream);

// counts: [groups, bins^3], float64 for float64 colours and else float32. units: groups * (bins^3 + 1) numbers, holding
// 0 at the call. status: nullptr without groups.
const char* soft_color_histogram_cuda(const GroupedColors& colors, void* counts, int64_t* units, int32_t* status,
                                      void* stream);
// grad: like counts. grad_colors: [N, 3] of the type of the colours; NaN for a colour with a wrong group.
const char* soft_color_histogram_backward_cuda(const GroupedColors& colors, const void* grad, void* grad_colors,
                                               void* stream);

// Waits until the stream has come so far.
const char* read_status(const int32_t* status, void* stream, int32_t& value);

}  // namespace m2o_fast
