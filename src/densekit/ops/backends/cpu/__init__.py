"""The primitives for float32 on a CPU, compiled from the C++ in this folder.

kernels.h is the table of their signatures; `build` compiles, `library` loads, `bindings` calls, `backend` is the
`KernelBackend`.
"""
