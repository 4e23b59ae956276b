// The number types of images, as the bindings name them to kernels that know no torch.
#pragma once

#include <cstdint>

namespace m2o_fast {

enum class ElementType : int32_t { float32, float64, float16, bfloat16 };

}  // namespace m2o_fast
