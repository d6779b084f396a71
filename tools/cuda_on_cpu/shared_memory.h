// The shared memory of one block: the arrays that the .cu file declares, and the dynamic one that the launch asks for.
//
// `__shared__ float tile[32][33];` becomes a reference into memory of the block; each such declaration has its place in
// it, given when the library is loaded. Every block finds all of it filled with NaN: what nothing wrote must not be
// read. Under AddressSanitizer what lies between the arrays is forbidden, to the byte.
#pragma once

#include <stdlib.h>
#include <string.h>

#include <vector>

#include "sanitizers.h"

namespace cuda_on_cpu {

constexpr size_t SHARED_ALIGNMENT = 1024;  // wgmma's rows want it
constexpr size_t SHARED_GAP = 64;

struct SharedVariable {
  size_t offset, bytes;
};

struct SharedLayout {
  std::vector<SharedVariable> variables;
  size_t bytes = 0;  // with the gaps

  size_t add(size_t size, size_t alignment) {
    const size_t offset = (bytes + alignment - 1) / alignment * alignment;
    variables.push_back({offset, size});
    bytes = offset + size + SHARED_GAP;
    return offset;
  }
};

// Of all the kernels in the file
inline SharedLayout& shared_layout() {
  static SharedLayout layout;
  return layout;
}

class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(const SharedMemory&) = delete;
  ~SharedMemory() { discard(); }

  char* variable(size_t offset) const { return memory + offset; }
  char* dynamic() const { return memory + dynamic_offset; }
  bool holds(const void* at) const { return at >= memory && at < memory + bytes; }

  // Memory for the next block, all NaN
  void renew(size_t dynamic_bytes) {
    const SharedLayout& layout = shared_layout();
    const size_t offset = (layout.bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
    if (!memory || bytes != offset + dynamic_bytes || ADDRESS_SANITIZER || THREAD_SANITIZER) {
      discard();
      dynamic_offset = offset, bytes = offset + dynamic_bytes;
      if (posix_memalign(reinterpret_cast<void**>(&memory), SHARED_ALIGNMENT, bytes ? bytes : 1)) abort();
    }
    memset(memory, 0xff, bytes);
    size_t end = 0;
    for (const SharedVariable& variable : layout.variables) {
      poison(memory + end, variable.offset - end);
      end = variable.offset + variable.bytes;
    }
    poison(memory + end, offset - end);
  }

 private:
  void discard() {
    unpoison(memory, bytes);
    free(memory);
    memory = nullptr, bytes = 0;
  }

  char* memory = nullptr;
  size_t bytes = 0, dynamic_offset = 0;
};

}  // namespace cuda_on_cpu
