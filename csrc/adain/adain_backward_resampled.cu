// The kernels of adain_backward with a change of size, in a file of their own because they take long to compile.
#include "adain_backward.cuh"

namespace m2o_fast {

const char* adain_backward_resampled(const AdainArguments& arguments, const Workspace& workspace, void* stream) {
  return arguments.resample == Resample::up2 ? run<Backward, Resample::up2>(arguments, workspace, stream)
                                             : run<Backward, Resample::down2>(arguments, workspace, stream);
}

}  // namespace m2o_fast
