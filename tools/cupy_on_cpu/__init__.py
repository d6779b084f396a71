"""Run a program that uses the real CuPy on a machine without a GPU: CUDA's part is played by Python and by the CPU.

    python tools/cupy_on_cpu -m pytest -m gpu tests/test_cuda_gpu.py
    python tools/cupy_on_cpu tools/gpu_check.py --quick

CuPy is compiled code that calls CUDA through two of its own modules, cupy_backends.cuda.api.runtime and .driver. Each
offers its functions to the others as capsules (`__pyx_capi__`), from which they take the addresses when they are
imported. Here the capsules are exchanged before that. So everything of CuPy is its own, streams, events, graphs, pools
and the packing of a launch's arguments; only what it asks of CUDA is done here (streams.py, device.py). A launch goes
to the stand-in of tools/cuda_on_cpu, with the bytes that CuPy packed. Of nstcore two functions are wrapped: the one
that compiles a cubin, to know which .cu file is behind it, and the driver's that encodes tensor maps, which no library
without a GPU has.

What a GPU would refuse ends the process at once, exit code 3: a traceback, then one line, "VIOLATION: ...". It is no
exception: none can leave a function that C calls through ctypes, and no `except` hides it. At the end of the program a
line counts what was asked of CUDA. The rules, and whose they are ([1] and [2] by chapter and function, errors by their
names in cudaError_t):

- A stream or event that is captured is neither waited for nor queried, nor the device while there is one ([1] CUDA
  Graphs, Prohibited and Unhandled Operations; cudaErrorStreamCaptureUnsupported, cudaErrorCapturedEvent).
- The legacy stream is not used while a blocking stream is captured ([1] the same; cudaErrorStreamCaptureImplicit), nor
  captured itself ([2] cudaStreamBeginCapture).
- Other streams join a capture by an event, and come back by one before it ends ([1] Cross-stream Dependencies and
  Events; cudaErrorStreamCaptureUnjoined, -Unmatched, -Merge); they wait for nothing outside (-Isolation).
- In the modes global and thread-local no memory is taken or given back, nothing loaded, queried or waited for ([2]
  cudaThreadExchangeStreamCaptureMode), and the thread that began ends (-WrongThread). CuPy's default is relaxed.
- No copy between the device and pageable memory is captured: stricter than CUDA, but a graph reads and writes at its
  launch, when NumPy may have given the memory away.
- A block has 48 KiB of shared memory without asking, static and dynamic, and 227 KiB at most ([1] Compute Capability
  9.x, Shared Memory; [2] cudaFuncSetAttribute).
- Work is done as late as possible: at a wait, or when memory is given back ([1] Asynchronous Concurrent Execution). A
  copy from pageable memory takes its bytes at once, one to it waits for all work; pinned memory is read and written
  late ([2] API synchronization behavior). New memory is NaN. So what is read too early is wrong, every time.
- Copies, fills and arrays of a launch lie in memory that was taken, when they are asked for and when they are done.
- Time between events that were made without timing, or are not over, is not to be had ([2] cudaEventElapsedTime).

What it cannot tell: time (an elapsed time is 1 ms); work that streams do in another order than they were asked to
(there is one queue for all, so an event missing between two streams goes unnoticed outside of a capture); what
tools/cuda_on_cpu/README.md says of kernels; launches and allocations that fail (more than 2 GiB ends the program, it is
no MemoryError); several GPUs; CuPy's own kernels, and whatever else of CUDA nstcore has no use for: "not played here".

Python processes that the program starts by `subprocess` come under it, too: `subprocess.Popen` is exchanged for one
that puts this folder before the script, -m or -c of a command line that begins with sys.executable. Other ways to start
one (os.exec, multiprocessing) lead out of it.

It needs Linux, g++, NVRTC and CuPy 14 for CUDA 13 (tried with 14.2.0); what is missing, or entry points that are other
ones, is one line, exit code 2.

References
----------
.. [1] NVIDIA, "CUDA C++ Programming Guide", release 13.0.
.. [2] NVIDIA, "CUDA Runtime API", release 13.0.
"""
