// The adain kernels whose y is larger or smaller than x. They are compiled in a file of their own, adain_resampled.cpp,
// so that those without resampling stay what they are.
#pragma once

#include "adain_planes.h"
#include "adain_rows.h"

namespace m2o_fast {

// The first declaration has to be M2O_KERNEL: the attribute of a later one is ignored without a word.
template <typename T>
M2O_KERNEL void run_forward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end);
template <typename T>
M2O_KERNEL void run_backward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end);
template <typename T>
M2O_KERNEL void run_forward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch);
template <typename T>
M2O_KERNEL void run_backward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch);

}  // namespace m2o_fast
