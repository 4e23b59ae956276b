// Runs CUDA kernels on a CPU, for tests: every CUDA thread is a fiber, and all fibers share one thread of the process.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>

namespace emulation {

struct Index {
  unsigned x, y, z;
};
struct Place {
  const char* file = "";
  int line = 0;
};
struct Launch {
  const void* kernel;  // nullptr where nothing can have been asked for it
  dim3 grid, block;
  unsigned cluster;
  size_t shared_bytes;
};
struct Device {
  int multiprocessors;
  int shared_bytes;  // the most that one block can have
  int major;         // of the compute capability: clusters from 9 on
  int most_cluster;  // blocks in the largest one that it can run
  int code;          // what kernels were compiled for: 90, or 80 and then translated by the driver
};

// Of the thread that runs.
extern Index thread_index, block_index;
extern dim3 block_size, grid_size;

// Ends the process with the words and with where it happened.
[[noreturn]] void die(const char* words);

// --- what threads of a kernel call ---------------------------------------------------------------------------------
void wait_for_block(const Place& place);
void arrive_at_cluster(const Place& place);
void wait_for_cluster(const Place& place);
// Every lane of `mask` hands over `bytes` and gets those of lane `from`.
void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int from, const Place& place);
int lane_number();
void* dynamic_shared();
// The block's memory for a variable, which is known by its key.
void* static_shared(const void* key, size_t bytes);
void* in_peer(const void* shared, unsigned rank, const Place& place);
void enter_kernel(const char* name, unsigned most_threads);

// --- what the host calls -------------------------------------------------------------------------------------------
cudaError_t run_grid(const Launch& launch, const std::function<void()>& kernel);
bool add_kernel(const char* name);
void note_route(const char* words);  // of the next launch
void note_launch(const char* name);
const Device& current_device();
size_t most_shared_bytes(const void* kernel);  // that were asked for
void remember(cudaError_t error);

}  // namespace emulation
