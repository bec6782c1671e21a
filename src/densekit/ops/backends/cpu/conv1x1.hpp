// The 1x1 convolution of a bottleneck: (M, C) -> (M, N), N a few panels wide. The loop nest of gemm.hpp, with more in its
// prologue and epilogue.
//
//     conv1x1:                                             conv1x1_backward:
//         for each tile of MC rows                             for each tile of MC rows
//             prologue: normalise new maps (pending),              prologue: A~ as forward; D~ = a dz + b h + c, the gradient of h
//                       A~ = relu(x * scale + shift)               for each panel of NR channels c, for each MR rows
//             for each panel of NR outputs, for each MR rows           for n in N: acc += D~[MR][n] * W~[n][NR]
//                 for c in C: acc += A~[MR][c] * W~[c][NR]             epilogue: mask by A~, add to dx, dscale, dshift
//                 epilogue: store h                                for the columns that are finalised: sums of dx and dx * x
//             statistics of h, while it is in the cache            for each panel of NR outputs n, for each MR channels c
//                                                                      for rows of the tile: acc += A~[row][MR] * D~[row][NR]
//                                                                      epilogue: add to the thread's weight gradient
//
// Forward, MC fills the first-level cache with A~ alone: W~ streams from the second-level cache. Backward, the tile is at least two
// MR_MULTIPLEs high where every thread gets a few of them, as each tile reads and writes the whole weight gradient.
#pragma once
#include "batch_norm.hpp"
#include "gemm.hpp"

namespace densekit {

inline void conv1x1(const conv1x1_args& args, int threads) {
    float *const x = args.x.data, *const h = args.h.data;
    const float* const w = args.weight;
    const Index ldx = args.x.ld, ldh = args.h.ld, M = args.M, C = args.C, N = args.N;
    const PendingNorm& pending = args.pending;
    const Index lda = round_up(C, V) + 16, tile = mc_for(lda);
    const Padded s(args.prologue.scale, C), t(args.prologue.shift, C);
    Buffer<float> packed(C * round_up(N, V));
    pack(packed, C, N, [&](Index c, Index n) { return w[n * C + c]; });
    PerThread<float> scratch(threads, tile * lda);
    Moments moments(threads, N);
    parallel(threads, (M + tile - 1) / tile, [&](Index begin, Index end, int thread) {
        float* a = scratch[thread];
        for (Index u = begin; u < end; ++u) {
            const Index first = u * tile, rows = std::min(tile, M - first), next = first + rows;
            Prefetcher prefetcher(u + 1 < end ? std::min(tile, M - next) : 0, micro_tiles(rows, N) * prefetch_intervals(C, PREFETCH_INTERVAL_COLUMNS));
            prefetcher.add(x + next * ldx, ldx, C);
            prefetcher.add(h + next * ldh, ldh, N);
            if (args.pending_columns) {
                prefetcher.add(pending.maps.data + next * pending.maps.ld, pending.maps.ld, args.pending_columns);
                normalise_rows(pending, args.pending_columns, first, rows, x + first * ldx + C - args.pending_columns, ldx);
            }
            for (Index i = 0; i < rows; ++i) bn_relu(x + (first + i) * ldx, s, t, a + i * lda, C);
            for_panels(N, C, packed, [&](auto p, Index n, const float* panel) __attribute__((always_inline)) {
                constexpr int P = decltype(p)::value, R = mr_for(P);
                for (Index i = 0; i < rows; i += R) {
                    Vector acc[R][P];
                    clear(acc);
                    for (Index k = 0; k < C; k += PREFETCH_INTERVAL_COLUMNS) {
                        prefetcher.fetch();
                        micro_kernel<R, P>(a + i * lda + k, lda, panel + k * P * V, std::min(PREFETCH_INTERVAL_COLUMNS, C - k), acc);
                    }
#pragma GCC unroll 12
                    for (int j = 0; j < R; ++j)
                        if (i + j < rows)
#pragma GCC unroll 4
                            for (int v = 0; v < P; ++v) store(h + (first + i + j) * ldh + n + v * V, acc[j][v]);
                }
            });
            if (args.mean) moments.add(thread, h + first * ldh, ldh, rows, true);
        }
    });
    if (args.mean) moments.finish(args.mean, args.variance);
}

inline void conv1x1_backward(const conv1x1_backward_args& args, int threads) {
    const float *const x = args.x.data, *const w = args.weight, *const dz = args.dh.dz.data, *const h = args.dh.h.data;
    float *const dx = args.dx.data, *const dw = args.dweight;
    const Index ldx = args.x.ld, lddz = args.dh.dz.ld, ldh = args.dh.h.ld, lddx = args.dx.ld;
    const Index M = args.M, C = args.C, N = args.N, finalised = args.finalised;
    const Index Cv = round_up(C, V), Nv = round_up(N, V), lda = Cv + 16, ldd = Nv + 16;
    // Two row groups a tile, if every thread gets a few tiles.
    const Index tile = mc_for(lda + ldd, BACKWARD_TILE_FLOATS, M >= 4 * MR_MULTIPLE * threads ? 2 : 1);
    const Padded s(args.prologue.scale, C), t(args.prologue.shift, C), m(args.prologue.centre, C);
    const Padded ca(args.dh.dz_scale, N), cb(args.dh.h_scale, N), cc(args.dh.offset, N);
    Buffer<float> packed(N * Cv);
    pack(packed, N, C, [&](Index n, Index c) { return w[n * C + c]; });
    PerThread<float> activations(threads, tile * lda), gradients(threads, tile * ldd), parts(threads, 2 * Cv), dws(threads, C * Nv);
    PerThread<double> totals(threads, 2 * Cv + 2 * finalised);  // of dscale and dshift, then of the finalised columns
    parallel(threads, (M + tile - 1) / tile, [&](Index begin, Index end, int thread) {
        float *a = activations[thread], *d = gradients[thread], *sum = parts[thread], *dw_part = dws[thread];
        for (Index u = begin; u < end; ++u) {
            const Index first = u * tile, rows = std::min(tile, M - first), next = first + rows;
            Prefetcher prefetcher(u + 1 < end ? std::min(tile, M - next) : 0, micro_tiles(C, N) * prefetch_intervals(rows, PREFETCH_INTERVAL_ROWS));
            prefetcher.add(x + next * ldx, ldx, C);
            prefetcher.add(dz + next * lddz, lddz, N);
            prefetcher.add(h + next * ldh, ldh, N);
            prefetcher.add(dx + next * lddx, lddx, C);
            for (Index i = 0; i < rows; ++i) {
                bn_relu(x + (first + i) * ldx, s, t, a + i * lda, C);
                // The batch norm behind this convolution, backward.
                const float *from = dz + (first + i) * lddz, *value = h + (first + i) * ldh;
                for (Index n = 0; n < N; n += V)
                    store(d + i * ldd + n, load(from + n) * load(ca + n) + (load(value + n) * load(cb + n) + load(cc + n)));
            }
            std::memset(sum, 0, static_cast<std::size_t>(2 * Cv) * sizeof(float));
            for_panels(C, N, packed, [&](auto p, Index c, const float* panel) __attribute__((always_inline)) {
                constexpr int P = decltype(p)::value, R = mr_for(P);
                for (Index i = 0; i < rows; i += R) {
                    Vector acc[R][P];
                    clear(acc);
                    micro_kernel<R, P>(d + i * ldd, ldd, panel, N, acc);
#pragma GCC unroll 4
                    for (int v = 0; v < P; ++v) {
                        const Index column = c + v * V;
                        const Vector factor = load(s + column), mean = load(m + column);
                        Vector ds = load(sum + column), db = load(sum + Cv + column);
#pragma GCC unroll 12
                        for (int j = 0; j < R; ++j)
                            if (i + j < rows) {
                                const Vector g = masked(acc[j][v], load(a + (i + j) * lda + column));
                                db += g;
                                ds += g * (load(x + (first + i + j) * ldx + column) - mean);
                                float* to = dx + (first + i + j) * lddx + column;
                                store(to, load(to) + g * factor);
                            }
                        store(sum + column, ds);
                        store(sum + Cv + column, db);
                    }
                }
            });
            add_to(totals[thread], sum, 2 * Cv);
            // No other reader of these maps is left: what their batch norm backward needs is summed while they are in the cache.
            add_column_reductions(dx + first * lddx + C - finalised, lddx, x + first * ldx + C - finalised, ldx,
                                  totals[thread] + 2 * Cv, sum, rows,
                     finalised);
            for_panels(N, 0, nullptr, [&](auto p, Index n, const float*) __attribute__((always_inline)) {
                constexpr int P = decltype(p)::value, R = mr_for(P);
                for (Index c = 0; c < C; c += R) {
                    Vector acc[R][P];
                    clear(acc);
                    for (Index i = 0; i < rows; i += PREFETCH_INTERVAL_ROWS) {
                        prefetcher.fetch();
                        micro_kernel_transposed<R, P>(a + i * lda + c, lda, d + i * ldd + n, ldd, std::min(PREFETCH_INTERVAL_ROWS, rows - i), acc);
                    }
#pragma GCC unroll 12
                    for (int q = 0; q < R; ++q)
                        if (c + q < C)
#pragma GCC unroll 4
                            for (int v = 0; v < P; ++v) {
                                float* to = dw_part + (c + q) * Nv + n + v * V;
                                store(to, load(to) + acc[q][v]);
                            }
                }
            });
        }
    });
    for (Index c = 0; c < finalised; ++c) {
        args.sums[c] = static_cast<float>(totals.sum(2 * Cv + c));
        args.products[c] = static_cast<float>(totals.sum(2 * Cv + finalised + c));
    }
    for (Index c = 0; c < C; ++c) {
        args.dscale[c] = static_cast<float>(totals.sum(c));
        args.dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
    parallel(threads, Cv / V, [&](Index begin, Index end, int) {
        for (Index u = begin; u < end; ++u)
            for (Index n = 0; n < N; ++n)
                for (Index c = u * V; c < std::min(C, (u + 1) * V); ++c) dw[n * C + c] = static_cast<float>(dws.sum(c * Nv + n));
    });
}

}  // namespace densekit
