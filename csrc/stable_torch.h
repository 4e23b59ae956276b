// Torch's stable ABI, whose calls say here why they failed; torch's own headers say so from 2.13 on alone. Whatever
// needs torch includes this file, so that one translation unit has one meaning of the macro.
#pragma once

#include <torch/headeronly/util/shim_utils.h>

#include <sstream>
#include <stdexcept>

// Null where the torch that runs is older than 2.13.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace m2o_fast {

[[noreturn]] inline void throw_error_of_torch(const char* call) {
  std::ostringstream message;
  if (torch_exception_get_what_without_backtrace != nullptr) {
    message << torch_exception_get_what_without_backtrace() << " (in " << call << ')';
  } else {
    message << "torch refused " << call;
  }
  throw std::runtime_error(message.str());
}

}  // namespace m2o_fast

#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call)         \
  if ((call) != TORCH_SUCCESS) {             \
    ::m2o_fast::throw_error_of_torch(#call); \
  }

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
