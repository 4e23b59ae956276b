// The kernels of adain_forward with a change of size, in a file of their own because they take long to compile.
#include "adain_forward.cuh"

namespace m2o_fast {

const char* adain_forward_resampled_workspace(const AdainArguments& arguments, size_t& bytes) {
  return arguments.resample == Resample::up2 ? ask_workspace<Forward, Resample::up2>(arguments, bytes)
                                             : ask_workspace<Forward, Resample::down2>(arguments, bytes);
}

const char* adain_forward_resampled(const AdainArguments& arguments, void* stream) {
  return arguments.resample == Resample::up2 ? run<Forward, Resample::up2>(arguments, stream)
                                             : run<Forward, Resample::down2>(arguments, stream);
}

}  // namespace m2o_fast
