// From a call by Python to the kernel: its arguments, and the threads that it allows in a block.
#pragma once

#include <stdio.h>

#include <utility>

#include "calls.h"

namespace cuda_on_cpu {

// A kernel and its arguments, as a function of one pointer
template <class... Types>
struct Call {
  void (*kernel)(Types...);
  void** arguments;

  template <size_t... I>
  void apply(std::index_sequence<I...>) {
    kernel(*static_cast<Types*>(arguments[I])...);
  }
  static void thread(void* call) { static_cast<Call*>(call)->apply(std::index_sequence_for<Types...>{}); }
};

template <class... Types>
int launch(void (*kernel)(Types...), unsigned bound, const Launch& asked, void** arguments, char* message,
           size_t bytes) {
  if (asked.threads() > bound) {
    snprintf(message, bytes, "%u threads in a block, but __launch_bounds__ says at most %u", asked.threads(), bound);
    return 1;
  }
  Call<Types...> call = {kernel, arguments};
  return run(asked, Call<Types...>::thread, &call, message, bytes);
}

}  // namespace cuda_on_cpu

// What Python calls; BOUND is the first argument of __launch_bounds__
#define CUDA_ON_CPU_KERNEL(NAME, BOUND)                                                                          \
  extern "C" __attribute__((visibility("default"))) int launch_##NAME(                                          \
      const cuda_on_cpu::Launch* asked, void** arguments, char* message, size_t bytes) {                         \
    return cuda_on_cpu::launch(&NAME, BOUND, *asked, arguments, message, bytes);                                 \
  }
