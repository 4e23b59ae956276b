// What the host finds out about a GPU once, rather than at every call.
#pragma once

#include <cuda_runtime.h>

#include <mutex>
#include <optional>
#include <vector>

namespace m2o_fast {

// A value for each device, found out when it is first asked for. Threads may ask side by side. A failure is not kept.
template <typename Value>
class PerDevice {
 public:
  // The value for the current device; find_out(device, value) is called unless it is known.
  template <typename FindOut>
  cudaError_t get(Value& value, const FindOut& find_out) {
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) {
      return error;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (static_cast<size_t>(device) >= known_.size()) {
      known_.resize(device + 1);
    }
    std::optional<Value>& known = known_[device];
    if (!known) {
      Value found{};
      if (const cudaError_t error = find_out(device, found); error != cudaSuccess) {
        return error;
      }
      known = found;
    }
    value = *known;
    return cudaSuccess;
  }

 private:
  std::mutex mutex_;
  std::vector<std::optional<Value>> known_;
};

struct DeviceFacts {
  int multiprocessors;
  int shared_bytes;  // the most that one block can have
  int major;         // of the compute capability
};

inline cudaError_t ask_device(DeviceFacts& facts) {
  static PerDevice<DeviceFacts> known;
  return known.get(facts, [](int device, DeviceFacts& found) {
    cudaError_t error = cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    return error == cudaSuccess ? cudaDeviceGetAttribute(&found.major, cudaDevAttrComputeCapabilityMajor, device)
                                : error;
  });
}

}  // namespace m2o_fast
