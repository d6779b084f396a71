// The shared memory of one block: the arrays that the .cu file declares, and the dynamic one that the launch asks for.
//
// `__shared__ float tile[32][33];` becomes a reference into memory of the block; each such declaration has its place in
// it, given when the library is loaded. Every block finds all of it filled with NaN: what nothing wrote must not be
// read. Under AddressSanitizer what lies between the arrays is forbidden, to the byte.
#pragma once

#include <stddef.h>

namespace cuda_on_cpu {

// A place for one declaration, among those of all the kernels in the file
size_t shared_place(size_t bytes, size_t alignment);

class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(const SharedMemory&) = delete;
  ~SharedMemory() { discard(); }

  char* variable(size_t offset) const { return memory + offset; }
  char* dynamic() const { return memory + dynamic_offset; }
  bool holds(const void* at) const { return at >= memory && at < memory + bytes; }

  void renew(size_t dynamic_bytes);  // memory for the next block, all NaN

 private:
  void discard();

  char* memory = nullptr;
  size_t bytes = 0, dynamic_offset = 0;
};

}  // namespace cuda_on_cpu
