/* Facts of this build and of the machine. */
#include "nst.h"

#include <string.h>

#ifndef NST_BUILD
#error "NST_BUILD: the hash of the sources; setup.py defines it"
#endif

const char *nst_build(void) { return NST_BUILD; }

int nst_supports(const char *instructions)
{
    if (!strcmp(instructions, "baseline")) return 1;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(instructions, "avx2")) return avx2;
    if (!strcmp(instructions, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
#endif
    return 0;
}
