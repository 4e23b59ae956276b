// The kernels of adain_backward with a change of size, in a file of their own because they take long to compile.
#include "adain_backward.cuh"

namespace m2o_fast {

const char* adain_backward_resampled_workspace(const AdainArguments& arguments, size_t& bytes) {
  return arguments.resample == Resample::up2 ? ask_workspace<Backward, Resample::up2>(arguments, bytes)
                                             : ask_workspace<Backward, Resample::down2>(arguments, bytes);
}

const char* adain_backward_resampled(const AdainArguments& arguments, void* stream) {
  return arguments.resample == Resample::up2 ? run<Backward, Resample::up2>(arguments, stream)
                                             : run<Backward, Resample::down2>(arguments, stream);
}

}  // namespace m2o_fast
