// Where in a block's shared memory each declaration has its place, and what a block finds there.
#pragma once

#include <stdlib.h>
#include <string.h>

#include <vector>

#include "sanitizers.h"
#include "shared_memory.h"

namespace cuda_on_cpu {

constexpr size_t SHARED_ALIGNMENT = 1024;  // wgmma's rows want it
constexpr size_t SHARED_GAP = 64;

struct SharedVariable {
  size_t offset, bytes;
};

struct SharedLayout {
  std::vector<SharedVariable> variables;
  size_t bytes = 0;  // with the gaps
};

// Of all the kernels in the file
inline SharedLayout& shared_layout() {
  static SharedLayout layout;
  return layout;
}

size_t shared_place(size_t bytes, size_t alignment) {
  SharedLayout& layout = shared_layout();
  const size_t offset = (layout.bytes + alignment - 1) / alignment * alignment;
  layout.variables.push_back({offset, bytes});
  layout.bytes = offset + bytes + SHARED_GAP;
  return offset;
}

void SharedMemory::renew(size_t dynamic_bytes) {
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

void SharedMemory::discard() {
  unpoison(memory, bytes);
  free(memory);
  memory = nullptr, bytes = 0;
}

}  // namespace cuda_on_cpu
