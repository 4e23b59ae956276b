// The kernels of adain_forward with a change of size, in a file of their own because they take long to compile.
#include "adain_forward.cuh"

namespace m2o_fast {

const char* adain_forward_resampled(const AdainArguments& arguments, const Workspace& workspace, void* stream) {
  return arguments.resample == Resample::up2 ? run<Forward, Resample::up2>(arguments, workspace, stream)
                                             : run<Forward, Resample::down2>(arguments, workspace, stream);
}

}  // namespace m2o_fast
