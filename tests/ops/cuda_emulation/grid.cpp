// Grids of fibers: blocks side by side, barriers, shuffles, shared memory. Compiled without a sanitizer's
// instrumentation; what fibers call keeps to plain arrays, since an instrumented copy of a container's functions may be
// linked.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "emulation.h"
#include "fibers.h"

namespace emulation {

Index thread_index, block_index;
dim3 block_size, grid_size;

namespace {

constexpr int kWarpSize = 32, kMostVariables = 16;
constexpr size_t kWithoutAsking = 48 * 1024;  // bytes of shared memory
constexpr int kPoison = 0xff;                 // NaN, or a number out of range
#if defined(EMULATION_THREAD)
constexpr unsigned kThreadsAtOnce = 512;  // a fiber costs the sanitizer a thread
#else
constexpr unsigned kThreadsAtOnce = 4096;
#endif

enum class Schedule { kForward, kBackward, kRandom };
enum class State { kReady, kAtBlockBarrier, kAtClusterBarrier, kInShuffle, kDone };

struct Block;

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  Index index{};
  Block* block = nullptr;
  int number = 0;        // in the block
  Place place;           // of what it does with others
  bool arrived = false;  // at the cluster's barrier
};

struct Warp {
  unsigned arrived = 0, mask = 0, turn = 0;
  alignas(16) unsigned char handed[2][kWarpSize][16];
};

struct Cluster {
  int live = 0, arrived = 0;
  std::vector<Block*> blocks;
};

struct Block {
  Index index{};
  Cluster* cluster = nullptr;
  int live = 0, arrived = 0;
  Place barrier;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0, static_bytes = 0;
  struct Variable {
    const void* key;
    void* memory;
  } variables[kMostVariables] = {};
  std::vector<Warp> warps;
  std::vector<Thread*> threads;

  ~Block() {
    free(shared);
    for (const Variable& variable : variables) {
      free(variable.memory);
    }
  }
};

std::vector<std::unique_ptr<Thread>> pool;
Thread* current = nullptr;
const std::function<void()>* run_kernel = nullptr;
const char* kernel_name = "";
Schedule schedule = Schedule::kForward;
std::mt19937 random_numbers{1};
char begin, end;  // of grids, for the sanitizer: two tokens, or the end of a thread would come before the next begins

// Threads that can go on, a ring.
constexpr unsigned kRing = 1 << 14;  // more than a cluster of 8 blocks has
Thread* ready[kRing];
unsigned ready_begin = 0, ready_end = 0;

void print_place() {
  if (current != nullptr) {
    const Index& block = current->block->index;
    fprintf(stderr, "EMULATION: kernel %s, block (%u, %u), thread %u, last at %s:%d\n", kernel_name, block.x, block.y,
            current->index.x, current->place.file, current->place.line);
    fflush(stderr);
  }
}

void* poisoned_memory(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<size_t>(bytes, 1)) != 0) {
    die("no memory");
  }
  return memset(memory, kPoison, bytes);
}

void make_ready(Thread& thread) {
  thread.state = State::kReady;
  ready[ready_end++ % kRing] = &thread;
}

void open_block_barrier(Block& block) {
  block.arrived = 0;
  for (Thread* thread : block.threads) {
    if (thread->state == State::kAtBlockBarrier) {
      make_ready(*thread);
    }
  }
}

void open_cluster_barrier(Cluster& cluster) {
  cluster.arrived = 0;
  for (Block* block : cluster.blocks) {
    for (Thread* thread : block->threads) {
      thread->arrived = false;
      if (thread->state == State::kAtClusterBarrier) {
        make_ready(*thread);
      }
    }
  }
}

// Barriers wait for those threads only that have not ended.
void end_thread(Thread& self) {
  self.state = State::kDone;
  Block& block = *self.block;
  Cluster& cluster = *block.cluster;
  const Warp& warp = block.warps[self.number / kWarpSize];
  if (warp.arrived != 0 && (warp.mask >> self.number % kWarpSize & 1)) {
    die("a lane has ended for which others wait in a shuffle");
  }
  if (--block.live > 0 && block.arrived == block.live) {
    open_block_barrier(block);
  }
  if (--cluster.live > 0 && cluster.arrived == cluster.live) {
    open_cluster_barrier(cluster);
  }
}

void run_thread() {
  Thread& self = *current;
  begin_fiber(self.fiber);
  for (;;) {
    acquire(&begin);
    (*run_kernel)();
    release(&end);
    end_thread(self);
    pause(self.fiber);
  }
}

Thread& thread_from_pool(size_t i) {
  while (pool.size() <= i) {
    pool.push_back(std::make_unique<Thread>());
    create_fiber(pool.back()->fiber, run_thread);
  }
  return *pool[i];
}

Thread& next_ready() {
  if (schedule == Schedule::kForward) {
    return *ready[ready_begin++ % kRing];
  }
  if (schedule == Schedule::kRandom) {
    const unsigned chosen = ready_begin + random_numbers() % (ready_end - ready_begin);
    std::swap(ready[chosen % kRing], ready[(ready_end - 1) % kRing]);
  }
  return *ready[--ready_end % kRing];
}

void run_ready() {
  release(&begin);
  while (ready_begin != ready_end) {
    current = &next_ready();
    thread_index = current->index;
    block_index = current->block->index;
    resume(current->fiber);
    current = nullptr;
  }
  acquire(&end);
}

// The blocks first <= i < last, whose threads are all alive together.
void run_blocks(const Launch& launch, uint64_t first, uint64_t last) {
  const dim3 grid = launch.grid, size = launch.block;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Cluster>> clusters;
  size_t threads = 0;
  for (uint64_t i = first; i < last; ++i) {
    if ((i - first) % launch.cluster == 0) {
      clusters.push_back(std::make_unique<Cluster>());
    }
    Block& block = *blocks.emplace_back(std::make_unique<Block>());
    block.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    block.cluster = clusters.back().get();
    block.cluster->blocks.push_back(&block);
    block.shared_bytes = launch.shared_bytes;
    block.shared = static_cast<unsigned char*>(poisoned_memory(launch.shared_bytes));
    block.live = int(size.x * size.y * size.z);
    block.cluster->live += block.live;
    block.warps.resize((block.live + kWarpSize - 1) / kWarpSize);
    for (int number = 0; number < block.live; ++number) {
      Thread& thread = thread_from_pool(threads++);
      thread.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
      thread.block = &block;
      thread.number = number;
      thread.place = {};
      thread.arrived = false;
      block.threads.push_back(&thread);
      make_ready(thread);
    }
  }
  run_ready();
  for (size_t i = 0; i < threads; ++i) {
    if (pool[i]->state != State::kDone) {
      current = pool[i].get();
      die("deadlock: this thread waits for others that never come");
    }
  }
}

}  // namespace

void die(const char* words) {
  fprintf(stderr, "\nEMULATION: %s\n", words);
  print_place();
  abort();
}

// Byte by byte: memcpy() would be watched.
static void copy(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
  }
}

void enter_kernel(const char* name, unsigned most_threads) {
  if (*kernel_name == 0) {
    kernel_name = name;
    note_launch(name);
  }
  if (block_size.x * block_size.y * block_size.z > most_threads) {
    die("more threads than __launch_bounds__ allows");
  }
}

int lane_number() { return current->number % kWarpSize; }

void* dynamic_shared() { return current->block->shared; }

void* static_shared(const void* key, size_t bytes) {
  Block& block = *current->block;
  for (auto& variable : block.variables) {
    if (variable.key == nullptr) {
      variable = {key, poisoned_memory(bytes)};
      block.static_bytes += bytes;
      if (block.static_bytes + block.shared_bytes > std::max(kWithoutAsking, block.shared_bytes)) {
        die("more than 48 KB of shared memory");
      }
      release(&variable);  // what allocating it has written is no race
    }
    if (variable.key == key) {
      acquire(&variable);
      return variable.memory;
    }
  }
  die("too many shared variables");
}

void wait_for_block(const Place& place) {
  Block& block = *current->block;
  current->place = place;
  if (block.arrived == 0) {
    block.barrier = place;
  } else if (block.barrier.line != place.line || strcmp(block.barrier.file, place.file) != 0) {
    die("threads of a block wait at different barriers");
  }
  release(&block);
  current->state = State::kAtBlockBarrier;
  if (++block.arrived == block.live) {
    open_block_barrier(block);
  }
  pause(current->fiber);
  acquire(&block);
}

void arrive_at_cluster(const Place& place) {
  current->place = place;
  if (current->arrived) {
    die("a thread arrives twice at the barrier of its cluster");
  }
  release(current->block->cluster);
  current->arrived = true;
  ++current->block->cluster->arrived;
}

void wait_for_cluster(const Place& place) {
  Cluster& cluster = *current->block->cluster;
  current->place = place;
  if (!current->arrived) {
    die("a thread waits at the barrier of its cluster without having arrived");
  }
  current->state = State::kAtClusterBarrier;
  if (cluster.arrived == cluster.live) {
    open_cluster_barrier(cluster);
  }
  pause(current->fiber);
  acquire(&cluster);
}

void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int from, const Place& place) {
  Block& block = *current->block;
  Warp& warp = block.warps[current->number / kWarpSize];
  const int lane = lane_number(), first = current->number - lane;
  current->place = place;
  if (!(mask >> lane & 1) || from < 0 || from >= kWarpSize || !(mask >> from & 1)) {
    die("a shuffle by or from a lane outside its mask");
  }
  if (warp.arrived != 0 && warp.mask != mask) {
    die("lanes of a warp shuffle with different masks");
  }
  for (int other = 0; other < kWarpSize; ++other) {
    const bool there = first + other < int(block.threads.size());
    const State state = there ? block.threads[first + other]->state : State::kDone;
    if ((mask >> other & 1) && state != State::kReady && state != State::kInShuffle) {
      die("a shuffle mask names a lane that is not there, has ended or waits at a barrier");
    }
  }
  const unsigned turn = warp.turn;
  warp.mask = mask;
  copy(warp.handed[turn][lane], mine, bytes);
  warp.arrived |= 1u << lane;
  current->state = State::kInShuffle;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    warp.turn ^= 1;
    for (int other = 0; other < kWarpSize; ++other) {
      if (mask >> other & 1) {
        make_ready(*block.threads[first + other]);
      }
    }
  }
  pause(current->fiber);
  copy(theirs, warp.handed[turn][from], bytes);
}

void* in_peer(const void* shared, unsigned rank, const Place& place) {
  Block& block = *current->block;
  const auto* mine = static_cast<const unsigned char*>(shared);
  current->place = place;
  if (mine < block.shared || mine >= block.shared + block.shared_bytes) {
    die("this is no place in dynamic shared memory");
  }
  if (rank >= block.cluster->blocks.size()) {
    die("there is no such block in the cluster");
  }
  Block& peer = *block.cluster->blocks[rank];
  if (peer.live == 0) {
    die("access to the shared memory of a block that has left its cluster");
  }
  return peer.shared + (mine - block.shared);
}

cudaError_t run_grid(const Launch& launch, const std::function<void()>& kernel) {
  [[maybe_unused]] static const bool reports = (at_report(print_place), true);
  const dim3 grid = launch.grid;
  const unsigned most_cluster = current_device().most_cluster;
  const uint64_t threads = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  cudaError_t error = cudaSuccess;
  if (blocks == 0 || threads == 0 || threads > 1024 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) {
    error = cudaErrorInvalidConfiguration;
  } else if (launch.shared_bytes > std::max(kWithoutAsking, most_shared_bytes(launch.kernel))) {
    error = cudaErrorInvalidValue;
  } else if (launch.cluster > most_cluster || grid.x % launch.cluster != 0) {
    error = cudaErrorInvalidClusterSize;
  }
  if (error != cudaSuccess) {
    remember(error);
    return error;
  }
  note_route(("cluster of " + std::to_string(launch.cluster)).c_str());
  grid_size = grid;
  block_size = launch.block;
  kernel_name = "";
  run_kernel = &kernel;
  const uint64_t at_once = std::max<uint64_t>(1, kThreadsAtOnce / threads / launch.cluster) * launch.cluster;
  for (uint64_t first = 0; first < blocks; first += at_once) {
    run_blocks(launch, first, std::min(blocks, first + at_once));
  }
  return cudaSuccess;
}

}  // namespace emulation

extern "C" void emulation_set_schedule(int number) { emulation::schedule = static_cast<emulation::Schedule>(number); }
