// The 3x3 convolution, zero padded, of a strip of rows at a time: (N, H, W, C) -> (N, H, W, K).
//
//     for each strip of rows of an image                   a thread's unit of work
//         prologue: relu(x * scale + shift) of the strip and a row above and below, with a border of zeros: [rows + 2][W + 2][C]
//         for each panel of NR outputs                     weights packed as [panel][9 * C][NR]
//             for each row, for each group of up to MR pixels
//                 for each of 3 rows of taps               three taps lie side by side in NHWC: one product of depth 3C
//                     for k in 3C: acc += A~[MR][k] * W~[k][NR]
//                 epilogue: store
//
// Backward is the same nest for the data gradient, over a second strip that holds dy and weights turned by half a turn, whose
// epilogue masks and adds to dscale and dshift; then, for each tap, the weight gradient:
//
//         for each panel of NR inputs, for each tap, for each group of up to MR outputs
//             for each row, for each pixel: acc += dy[pixel][MR] * A~[pixel + tap][NR]
//
// Strips: as many rows as STRIP_FLOATS of the second-level cache hold. Two more are held for the border, so there are at least
// MIN_STRIP_ROWS, or as many as WIDE_STRIP_FLOATS hold of a wide image; fewer where threads would be idle.
#pragma once
#include "batch_norm.hpp"
#include "gemm.hpp"

namespace densekit {

constexpr Index STRIP_FLOATS = 24 * 1024, WIDE_STRIP_FLOATS = 48 * 1024, MIN_STRIP_ROWS = 4;

// Rows of one image held for a 3x3 convolution, with a border of zeros: [rows + 2][W + 2][C], pixels C floats apart.
struct Strip {
    Index W, C, pitch;
    Strip(Index W_, Index C_) : W(W_), C(C_), pitch((W_ + 2) * C_) {}

    // Rows first-1 .. last of an image of H rows; fill(y, pixel 0) writes a row, and may run over its end by a vector.
    template <class Fill>
    inline void load_rows(float* buffer, Index first, Index last, Index H, Fill&& fill) const {
        for (Index y = first - 1; y <= last; ++y) {
            float* row = buffer + (y - first + 1) * pitch;
            if (y < 0 || y >= H) {
                std::memset(row, 0, static_cast<std::size_t>(pitch) * sizeof(float));
                continue;
            }
            std::memset(row, 0, static_cast<std::size_t>(C) * sizeof(float));
            fill(y, row + C);
            std::memset(row + pitch - C, 0, static_cast<std::size_t>(C) * sizeof(float));
        }
    }
};

struct Strips {
    Index H, W, rows, per_image, units;
    Strips(Index N, Index H, Index W, Index C, int threads)
        : Strips(N, H, W, C, threads, std::clamp((MIN_STRIP_ROWS + 2) * (W + 2) * C, STRIP_FLOATS, WIDE_STRIP_FLOATS)) {}
    Strips(Index N, Index H_, Index W_, Index C, int threads, Index floats) : H(H_), W(W_) {
        rows = std::clamp<Index>(floats / ((W + 2) * C) - 2, 1, H);
        rows = (H + (H + rows - 1) / rows - 1) / ((H + rows - 1) / rows);  // of nearly equal heights
        // Few images, many threads: shorter strips, so that none is idle.
        while (rows > 1 && N * ((H + rows - 1) / rows) < 2 * threads && threads > 1) rows = (rows + 1) / 2;
        per_image = (H + rows - 1) / rows;
        units = N * per_image;
    }
    // Of strip u: its first row in its image, and how many it has.
    Index first(Index u) const { return u % per_image * rows; }
    Index height(Index u) const { return std::min(rows, H - first(u)); }
    // Fetches strip u + 1, if it is before `end`, during the products of strip u: `columns` wide, of 9 * depth terms.
    Prefetcher prefetcher(Index u, Index end, Index columns, Index depth) const {
        const Index intervals = height(u) * micro_tiles(W, columns) * 3 * prefetch_intervals(3 * depth, PREFETCH_INTERVAL_DEPTH);
        return Prefetcher(u + 1 < end ? height(u + 1) * W : 0, intervals);
    }
};

// Outputs of one row of pixels by 3x3 taps: body(constant R, first pixel) on groups of nearly equal size.
template <int P, class Body>
INLINE void for_row_groups(Index count, Body&& body) {
    constexpr int R = mr_for(P);
    const Index groups = (count + R - 1) / R;
    for (Index g = 0; g < groups; ++g) {
        const Index first = count * g / groups, size = count * (g + 1) / groups - first;
        with_rows<R>(static_cast<int>(size), [&](auto r) __attribute__((always_inline)) { body(r, first); });
    }
}

template <int R, int P>
INLINE void micro_kernel_3x3(const float* row, Index pitch, Index C, const float* panel, Vector (&acc)[R][P], Prefetcher& prefetcher) {
    for (int dy = 0; dy < 3; ++dy)
        // The three taps of a kernel's row lie side by side in memory: one product of depth 3C, but for the intervals.
        for (Index k = 0; k < 3 * C; k += PREFETCH_INTERVAL_DEPTH) {
            prefetcher.fetch();
            micro_kernel<R, P>(row + dy * pitch + k, C, panel + (dy * 3 * C + k) * P * V, std::min(PREFETCH_INTERVAL_DEPTH, 3 * C - k), acc);
        }
}

// Rows of a strip held in a -> y, by weights packed as [9 * C][K]. Writes whole vectors.
inline void conv3x3_strip(const float* a, const Strip& strip, const float* packed, float* y, Index ldy, Index rows, Index K,
                     Prefetcher& prefetcher) {
    const Index C = strip.C, W = strip.W;
    for_panels(K, 9 * C, packed, [&](auto p, Index k, const float* panel) __attribute__((always_inline)) {
        constexpr int P = decltype(p)::value;
        for (Index row = 0; row < rows; ++row) {
            const float* source = a + row * strip.pitch;
            float* to = y + row * W * ldy + k;
            for_row_groups<P>(W, [&](auto r, Index pixel) __attribute__((always_inline)) {
                constexpr int R = decltype(r)::value;
                Vector acc[R][P];
                clear(acc);
                micro_kernel_3x3<R, P>(source + pixel * C, strip.pitch, C, panel, acc, prefetcher);
#pragma GCC unroll 12
                for (int j = 0; j < R; ++j)
#pragma GCC unroll 4
                    for (int v = 0; v < P; ++v) store(to + (pixel + j) * ldy + v * V, acc[j][v]);
            });
        }
    });
}

inline void conv3x3(const conv3x3_args& args, int threads) {
    const float *const x = args.x.data, *const w = args.weight;
    float* const y = args.y.data;
    const Index ldx = args.x.ld, ldy = args.y.ld;
    const Index N = args.size.images, H = args.size.height, W = args.size.width, C = args.C, K = args.K;
    const Padded s(args.prologue.scale, C), t(args.prologue.shift, C);
    Buffer<float> packed(9 * C * round_up(K, V));
    pack(packed, 9 * C, K, [&](Index row, Index k) { return w[(k * C + row % C) * 9 + row / C]; });
    const Strip strip(W, C);
    const Strips strips(N, H, W, C, threads);
    PerThread<float> scratch(threads, (strips.rows + 2) * strip.pitch + 16);
    parallel(threads, strips.units, [&](Index begin, Index end, int thread) {
        float* a = scratch[thread];
        for (Index u = begin; u < end; ++u) {
            const Index image = u / strips.per_image, first = strips.first(u), last = first + strips.height(u);
            strip.load_rows(a, first, last, H, [&](Index row, float* to) {
                for (Index p = 0; p < W; ++p) bn_relu(x + ((image * H + row) * W + p) * ldx, s, t, to + p * C, C);
            });
            const Index next = (image * H + last) * W;
            Prefetcher prefetcher = strips.prefetcher(u, end, K, C);
            prefetcher.add(x + (next + W) * ldx, ldx, C);  // the next strip's first row is here already, but at an image's end
            prefetcher.add(y + next * ldy, ldy, K);
            conv3x3_strip(a, strip, packed, y + (image * H + first) * W * ldy, ldy, last - first, K, prefetcher);
        }
    });
}

inline void conv3x3_backward(const conv3x3_backward_args& args, int threads) {
    const float *const x = args.x.data, *const w = args.weight;
    float *const dz = args.dz.data, *const dw = args.dweight;
    const Index ldx = args.x.ld, lddz = args.dz.ld;
    const Index N = args.size.images, H = args.size.height, W = args.size.width, C = args.C, K = args.K;
    const Index Cv = round_up(C, V);
    const Padded s(args.prologue.scale, C), t(args.prologue.shift, C), m(args.prologue.centre, C);
    Buffer<float> packed(9 * K * Cv);
    // The data gradient is the convolution with the kernel turned by half a turn.
    pack(packed, 9 * K, C, [&](Index row, Index c) { return w[(row % K * C + c) * 9 + 8 - row / K]; });
    const Strip strip(W, C), gradient(W, K);
    const Strips strips(N, H, W, C, threads);
    PerThread<float> activations(threads, (strips.rows + 2) * strip.pitch + 16);
    PerThread<float> gradients(threads, (strips.rows + 2) * gradient.pitch + 16);
    PerThread<float> sums(threads, 2 * Cv), dws(threads, 9 * K * Cv);
    PerThread<double> totals(threads, 2 * Cv);
    parallel(threads, strips.units, [&](Index begin, Index end, int thread) {
        float *a = activations[thread], *d = gradients[thread], *sum = sums[thread], *dw_part = dws[thread];
        for (Index u = begin; u < end; ++u) {
            const Index image = u / strips.per_image, first = strips.first(u), last = first + strips.height(u);
            strip.load_rows(a, first, last, H, [&](Index row, float* to) {
                for (Index p = 0; p < W; ++p) bn_relu(x + ((image * H + row) * W + p) * ldx, s, t, to + p * C, C);
            });
            gradient.load_rows(d, first, last, H, [&](Index row, float* to) {
                normalise_backward_rows(args.dy, K, (image * H + row) * W, W, to, K);
            });
            const Index next = (image * H + last) * W;
            Prefetcher prefetcher = strips.prefetcher(u, end, C, K);
            prefetcher.add(x + (next + W) * ldx, ldx, C);
            prefetch_gradient(args.dy, prefetcher, next + W, K);
            prefetcher.add(dz + next * lddz, lddz, C);
            std::memset(sum, 0, static_cast<std::size_t>(2 * Cv) * sizeof(float));
            for_panels(C, 9 * K, packed, [&](auto p, Index c, const float* panel) __attribute__((always_inline)) {
                constexpr int P = decltype(p)::value;
                for (Index row = first; row < last; ++row) {
                    const float* source = d + (row - first) * gradient.pitch;
                    const float* rectified = a + (row - first + 1) * strip.pitch + C + c;
                    const Index pixels = (image * H + row) * W;
                    for_row_groups<P>(W, [&](auto r, Index pixel) __attribute__((always_inline)) {
                        constexpr int R = decltype(r)::value;
                        Vector acc[R][P];
                        clear(acc);
                        micro_kernel_3x3<R, P>(source + pixel * K, gradient.pitch, K, panel, acc, prefetcher);
#pragma GCC unroll 4
                        for (int v = 0; v < P; ++v) {
                            const Index column = v * V;
                            const Vector mean = load(m + c + column);
                            Vector ds = load(sum + c + column), db = load(sum + Cv + c + column);
#pragma GCC unroll 12
                            for (int j = 0; j < R; ++j) {
                                const Vector g = masked(acc[j][v], load(rectified + (pixel + j) * C + column));
                                db += g;
                                ds += g * (load(x + (pixels + pixel + j) * ldx + c + column) - mean);
                                store(dz + (pixels + pixel + j) * lddz + c + column, g);
                            }
                            store(sum + c + column, ds);
                            store(sum + Cv + c + column, db);
                        }
                    });
                    // A strip's pixels are many: in float32 their sum would be less exact than torch's.
                    for (float* part : {sum + c, sum + Cv + c}) {
                        add_to(totals[thread] + (part - sum), part, P * V);
                        std::memset(part, 0, P * V * sizeof(float));
                    }
                }
            });
            for_panels(C, 0, nullptr, [&](auto p, Index c, const float*) __attribute__((always_inline)) {
                constexpr int P = decltype(p)::value;
                for (Index tap = 0; tap < 9; ++tap) {
                    const float* shifted = a + tap / 3 * strip.pitch + tap % 3 * C + c;
                    for_row_groups<P>(K, [&](auto r, Index k) __attribute__((always_inline)) {
                        constexpr int R = decltype(r)::value;
                        Vector acc[R][P];
                        clear(acc);
                        for (Index row = 0; row < last - first; ++row)
                            micro_kernel_transposed<R, P>(d + (row + 1) * gradient.pitch + K + k, K, shifted + row * strip.pitch, C, W, acc);
#pragma GCC unroll 12
                        for (int q = 0; q < R; ++q)
#pragma GCC unroll 4
                            for (int v = 0; v < P; ++v) {
                                float* to = dw_part + (tap * K + k + q) * Cv + c + v * V;
                                store(to, load(to) + acc[q][v]);
                            }
                    });
                }
            });
        }
    });
    for (Index c = 0; c < C; ++c) {
        args.dscale[c] = static_cast<float>(totals.sum(c));
        args.dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
    parallel(threads, K, [&](Index begin, Index end, int) {
        for (Index k = begin; k < end; ++k)
            for (Index c = 0; c < C; ++c)
                for (Index tap = 0; tap < 9; ++tap) dw[(k * C + c) * 9 + tap] = static_cast<float>(dws.sum((tap * K + k) * Cv + c));
    });
}

}  // namespace densekit
