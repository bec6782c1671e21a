// The library's face: plain C functions over primitives.hpp, called by ops/backends/cpu/library.py.
// Each library holds one instruction set's build and nothing else: builds for several in one library would share the
// standard library's inline functions, and the linker might keep the copy that an older processor cannot run.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "digest.hpp"
#include "dense_block.hpp"

using P = const float*;
using I = std::ptrdiff_t;

extern "C" const char* densekit_sources() noexcept { return SOURCES; }

// 0: done; 1: out of memory. Nothing else can throw.
#define EXPORT(name, parameters, arguments)            \
    extern "C" int densekit_##name parameters noexcept { \
        try {                                          \
            densekit::name arguments;                  \
            return 0;                                  \
        } catch (const std::bad_alloc&) {              \
            return 1;                                  \
        }                                              \
    }

EXPORT(statistics, (P x, I ldx, float* mean, float* variance, I M, I C, int threads), (x, ldx, mean, variance, M, C, threads))
EXPORT(normalise, (P x, I ldx, P mean, P rstd, float* out, I ldo, I M, I C, int threads), ({x, ldx, mean, rstd, C}, out, ldo, M, threads))
EXPORT(conv1x1,
       (float* x, I ldx, P maps, I ldmaps, P maps_mean, P maps_rstd, I K, P scale, P shift, P w, float* h, I ldh, float* mean,
        float* variance, I M, I C, I N, int threads),
       (x, ldx, {maps, ldmaps, maps_mean, maps_rstd, K}, scale, shift, w, h, ldh, mean, variance, M, C, N, threads))
EXPORT(conv1x1_backward,
       (P x, I ldx, P scale, P shift, P centre, P w, P dz, I lddz, P h, I ldh, P dz_scale, P h_scale, P offset, float* acc, I ldacc,
        float* dscale, float* dshift, float* dw, I finalised, float* sums, float* products, I M, I C, I N, int threads),
       (x, ldx, scale, shift, centre, w, dz, lddz, h, ldh, dz_scale, h_scale, offset, acc, ldacc, dscale, dshift, dw, finalised, sums,
        products, M, C, N, threads))
EXPORT(conv3x3, (P x, I ldx, P scale, P shift, P w, float* y, I ldy, I N, I H, I W, I C, I K, int threads),
       (x, ldx, scale, shift, w, y, ldy, N, H, W, C, K, threads))
EXPORT(conv3x3_backward,
       (P x, I ldx, P scale, P shift, P centre, P w, P dy, I lddy, P y, I ldy, P direct, I lddirect, P rstd, P mean_dy, P mean_product,
        float* dz, I lddz, float* dscale, float* dshift, float* dw, I N, I H, I W, I C, I K, int threads),
       (x, ldx, scale, shift, centre, w, {dy, lddy, y, ldy, direct, lddirect, rstd, mean_dy, mean_product}, dz, lddz, dscale, dshift, dw,
        N, H, W, C, K, threads))
EXPORT(column_reductions, (P x, I ldx, P y, I ldy, float* sums, float* products, I M, I C, int threads),
       (x, ldx, y, ldy, sums, products, M, C, threads))
EXPORT(normalise_backward,
       (P dx, I lddx, P x, I ldx, P direct, I lddirect, P rstd, P mean_dx, P mean_product, float* out, I ldo, I M, I C, int threads),
       ({dx, lddx, x, ldx, direct, lddirect, rstd, mean_dx, mean_product}, out, ldo, M, C, threads))
EXPORT(bn_relu_pool,
       (P x, I ldx, P scale, P shift, float* y, I ldy, I N, I H, I W, I C, I pool, int threads),
       (x, ldx, densekit::Padded(scale, C), densekit::Padded(shift, C), y, ldy, N, H, W, C, pool, threads))
EXPORT(bn_relu_pool_backward,
       (P x, I ldx, P scale, P shift, P centre, P dy, I lddy, float* dx, I lddx, float* dscale, float* dshift, I N, I H, I W, I C,
        I pool, int threads),
       (x, ldx, scale, shift, centre, dy, lddy, dx, lddx, dscale, dshift, N, H, W, C, pool, threads))
EXPORT(dense_block,
       (P x, I ldx, const P* weights, P scale, P shift, I pool, float* out, I N, I H, I W, I C, I layers, I width, I growth, int threads),
       (x, ldx, weights, scale, shift, pool, out, N, H, W, C, layers, width, growth, threads))
EXPORT(digest, (const P* arrays, const I* sizes, I count, std::uint64_t* digest, int threads), (arrays, sizes, count, digest, threads))
// Asks for huge pages: a matrix of tens of megabytes is written once a step, and faulting it in by small pages costs more.
extern "C" void densekit_advise([[maybe_unused]] void* memory, [[maybe_unused]] I bytes) noexcept {
#ifdef MADV_HUGEPAGE
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = (reinterpret_cast<std::uintptr_t>(memory) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(memory) + static_cast<std::uintptr_t>(bytes)) / page * page;
    if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // advice: what it answers is no matter
#endif
}
extern "C" I densekit_dense_layer_size(I C, I width, I K) noexcept { return densekit::dense_layer_size(C, width, K); }
extern "C" void densekit_pack_dense_layer(P w1, P scale2, P w2, float* packed, I C, I width, I K) noexcept {
    densekit::pack_dense_layer(w1, scale2, w2, packed, C, width, K);
}
