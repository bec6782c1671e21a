// The library's C functions, as kernels.h declares them.
// Each library holds one instruction set's build and nothing else: builds for several in one library would share the
// standard library's inline functions, and the linker might keep the copy that an older processor cannot run.
#include "kernels.h"

#include <sys/mman.h>
#include <unistd.h>

#include "conv1x1.hpp"
#include "dense_block.hpp"
#include "digest.hpp"

namespace densekit {

inline void advise_huge_pages([[maybe_unused]] const advise_huge_pages_args& args, int) {
#ifdef MADV_HUGEPAGE
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = (reinterpret_cast<std::uintptr_t>(args.data) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(args.data) + static_cast<std::uintptr_t>(args.bytes)) / page * page;
    if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
}

}  // namespace densekit

extern "C" const char* densekit_sources() noexcept { return SOURCES; }

// Nothing but a lack of memory can throw.
#define DEFINE(name)                                                                        \
    extern "C" int densekit_##name(const densekit::name##_args* args, int threads) noexcept { \
        try {                                                                               \
            densekit::name(*args, threads);                                                 \
            return 0;                                                                       \
        } catch (const std::bad_alloc&) {                                                   \
            return 1;                                                                       \
        }                                                                                   \
    }

DEFINE(statistics)
DEFINE(normalise)
DEFINE(normalise_backward)
DEFINE(column_reductions)
DEFINE(conv1x1)
DEFINE(conv1x1_backward)
DEFINE(conv3x3)
DEFINE(conv3x3_backward)
DEFINE(bn_relu_pool)
DEFINE(bn_relu_pool_backward)
DEFINE(dense_layer_size)
DEFINE(pack_dense_layer)
DEFINE(dense_block)
DEFINE(digest)
DEFINE(advise_huge_pages)
