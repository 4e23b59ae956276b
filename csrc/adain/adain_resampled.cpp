// The kernels of adain_resampled.h, for every storage type.
#include "adain_resampled.h"

#include "adain_planes_resampled.h"
#include "adain_rows_resampled.h"

namespace m2o_fast {

template <typename T>
M2O_KERNEL void run_forward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  if (p.resample == Resample::up2) {
    forward_planes<Up2PlaneWriter<T>>(p, begin, end);
  } else {
    forward_planes<Down2PlaneWriter<T>>(p, begin, end);
  }
}
template <typename T>
M2O_KERNEL void run_backward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end) {
  backward_planes<ResampledPlaneGradient<T>>(p, begin, end);
}
template <typename T>
M2O_KERNEL void run_forward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  forward_rows<ResampledRowWriter<T>>(p, range, scratch);
}
template <typename T>
M2O_KERNEL void run_backward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {
  backward_rows<ResampledRowGradient<T>>(p, range, scratch);
}

#define M2O_INSTANTIATE(T)                                                                   \
  template void run_forward_resampled(const AdainProblem<T>&, int64_t, int64_t);             \
  template void run_backward_resampled(const AdainProblem<T>&, int64_t, int64_t);            \
  template void run_forward_resampled(const AdainProblem<T>&, ChannelRange, RowScratch<T>&); \
  template void run_backward_resampled(const AdainProblem<T>&, ChannelRange, RowScratch<T>&);
M2O_INSTANTIATE(float)
M2O_INSTANTIATE(double)
M2O_INSTANTIATE(BFloat16)
M2O_INSTANTIATE(Half)

}  // namespace m2o_fast
