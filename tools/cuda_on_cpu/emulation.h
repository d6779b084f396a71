// All that the kernels only call, compiled once for every kind of build (nstcore/engines/cuda/on_cpu_build.py).
#pragma once

#include "async_copy.h"
#include "bulk_copy.h"
#include "os_threads.h"
#include "warpgroup_wait.h"
