// The primitives of a dense block on NHWC matrices: M = N*H*W rows of pixels, columns are channels, float32.
// ldx: floats from one row of x to the next. Matrices that are read or written by whole vectors must have rows padded to
// 16 floats (x, h, dz, acc, and what convolutions write); columns past the last are read and discarded, or written with junk
// that the caller overwrites. Each is documented, and written again in torch, in ops/backends/reference.py.
#pragma once
#include <cstdint>

#include "threads.hpp"

namespace densekit {

constexpr Index FORWARD_TILE_FLOATS = 6 * 1024;     // of a 32 or 48 KiB cache, what a tile of activations may take
constexpr Index BACKWARD_TILE_FLOATS = 12 * 1024;  // a backward tile may spill: larger ones add to the weight gradient less often
// Rows of an image that a 3x3 convolution holds at once, in the second-level cache. It holds one more above and below them, so
// there are at least MIN_STRIP_ROWS, or as many as a wide strip may take.
constexpr Index STRIP_FLOATS = 24 * 1024, WIDE_STRIP_FLOATS = 48 * 1024, MIN_STRIP_ROWS = 4;
constexpr Index STATISTICS_ROWS = 128;
// A product intervals so often to fetch what comes next: many lines at once would fill all that can wait for memory.
constexpr Index PREFETCH_INTERVAL_COLUMNS = 32, PREFETCH_INTERVAL_ROWS = 12, PREFETCH_INTERVAL_DEPTH = 144;

INLINE Index mc_for(Index columns, Index floats = FORWARD_TILE_FLOATS, Index fewest_groups = 1) {
    return std::clamp<Index>(floats / columns / MR_MULTIPLE, fewest_groups, 4) * MR_MULTIPLE;
}

// How many products of the registers' size make rows by columns.
INLINE Index micro_tiles(Index rows, Index columns) {
    Index count = 0;
    for_panels(columns, 0, nullptr, [&](auto p, Index, const float*) { count += (rows + mr_for(p.value) - 1) / mr_for(p.value); });
    return count;
}
INLINE Index prefetch_intervals(Index length, Index interval) { return (length + interval - 1) / interval; }

// to[i] = relu(x[i] * scale + shift), whole vectors.
INLINE void bn_relu(const float* x, const float* scale, const float* shift, float* to, Index C) {
    for (Index c = 0; c < C; c += V) store(to + c, relu(load(x + c) * load(scale + c) + load(shift + c)));
}

// Few columns of a wide matrix: memory sees a row here and there, which its own guesses do not follow.
constexpr Index PREFETCH_ROWS = 16;
INLINE void prefetch_rows(const float* row, Index ld, Index rows, Index columns) {
    for (Index i = 0; i < rows; ++i, row += ld) {
        for (Index c = 0; c < columns; c += 16) __builtin_prefetch(row + c);
        __builtin_prefetch(row + columns - 1);
    }
}

INLINE void add_to(double* total, const float* part, Index count) {
    for (Index i = 0; i < count; ++i) total[i] += part[i];
}

// Fetches the next tile or strip into the second-level cache, a little at each call, while this tile is multiplied:
// otherwise memory and arithmetic take turns.
class Prefetcher {
public:
    Prefetcher(Index rows, Index calls) : rows_(std::max<Index>(rows, 0)), calls_(std::max<Index>(calls, 1)) {}

    void add(const float* first, Index ld, Index columns) {
        if (rows_ == 0) return;
        // A few columns may lie across two lines; where rows are padded, in all of them alike.
        const Index into = reinterpret_cast<std::uintptr_t>(first) % 64;
        const Index width = round_up(into + columns * 4, 64);
        parts_[count_++] = {reinterpret_cast<const char*>(first) - into, ld * 4, width};
        lines_ += rows_ * (width / 64);
        each_ = (lines_ + calls_ - 1) / calls_;
    }
    void fetch() {
        for (Index left = each_; left > 0 && part_ < count_; --left) {
            const Part& part = parts_[part_];
            __builtin_prefetch(part.first + row_ * part.ld + offset_, 0, 2);
            if ((offset_ += 64) < part.width) continue;
            offset_ = 0;
            if (++row_ == rows_) row_ = 0, ++part_;
        }
    }

private:
    struct Part {
        const char* first;
        Index ld, width;
    };
    Part parts_[5];  // as many as conv3x3_backward adds
    Index rows_, calls_, count_ = 0, lines_ = 0, each_ = 0, part_ = 0, row_ = 0, offset_ = 0;
};

inline void statistics(const float* x, Index ldx, float* mean, float* variance, Index M, Index C, int threads) {
    Moments moments(threads, C);
    const Index tiles = (M + STATISTICS_ROWS - 1) / STATISTICS_ROWS;
    // Whole vectors may be read of all rows that another one follows.
    const bool whole = round_up(C, V) - C <= ldx;
    parallel(threads, tiles, [&](Index begin, Index end, int thread) {
        for (Index u = begin; u < end; ++u)
            moments.add(thread, x + u * STATISTICS_ROWS * ldx, ldx, std::min(STATISTICS_ROWS, M - u * STATISTICS_ROWS), whole && u + 1 < tiles);
    });
    moments.finish(mean, variance);
}

// Maps, normalised by their mean and 1 / standard deviation.
struct PendingNorm {
    const float* maps;
    Index ld;
    const float *mean, *rstd;
    Index columns;

    // Rows first .. first + count - 1.
    void rows(Index first, Index count, float* to, Index ldto) const {
        for_columns(columns, [&](auto lanes, Index c) __attribute__((always_inline)) {
            const auto middle = lanes.load(mean + c), factor = lanes.load(rstd + c);
            for (Index i = 0; i < count; ++i)
                lanes.store(to + i * ldto + c, (lanes.load(maps + (first + i) * ld + c) - middle) * factor);
        });
    }
};

inline void normalise(const PendingNorm& pending, float* out, Index ldo, Index M, int threads) {
    parallel(threads, M, [&](Index begin, Index end, int) {
        for (Index i = begin; i < end; i += PREFETCH_ROWS) {
            const Index count = std::min(PREFETCH_ROWS, end - i);
            prefetch_rows(out + (i + PREFETCH_ROWS) * ldo, ldo, count, pending.columns);
            pending.rows(i, count, out + i * ldo, ldo);
        }
    });
}

// The last columns of x are first made of `pending`, if it has any.
inline void conv1x1(float* x, Index ldx, const PendingNorm& pending, const float* scale, const float* shift, const float* w, float* h,
                      Index ldh, float* mean, float* variance, Index M, Index C, Index N, int threads) {
    const Index lda = round_up(C, V) + 16, tile = mc_for(lda);
    const Padded s(scale, C), t(shift, C);
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
            if (pending.columns) {
                prefetcher.add(pending.maps + next * pending.ld, pending.ld, pending.columns);
                pending.rows(first, rows, x + first * ldx + C - pending.columns, ldx);
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
            if (mean) moments.add(thread, h + first * ldh, ldh, rows, true);
        }
    });
    if (mean) moments.finish(mean, variance);
}

// total[c] += sum of x, total[C + c] += sum of x * y, over rows; `part` holds 2 * C floats for as few rows as cost no digits: a
// batch norm backward subtracts these from each of the gradients that they are sums of.
INLINE void add_column_reductions(const float* x, Index ldx, const float* y, Index ldy, double* total, float* part, Index rows, Index C) {
    constexpr Index FEW = 8;
    for (Index first = 0; first < rows; first += FEW, x += FEW * ldx, y += FEW * ldy) {
        const Index few = std::min(FEW, rows - first);
        for_columns(C, [&](auto lanes, Index c) __attribute__((always_inline)) {
            typename decltype(lanes)::Type sum{}, product{};
            for (Index i = 0; i < few; ++i) {
                const auto value = lanes.load(x + i * ldx + c);
                sum += value;
                product += value * lanes.load(y + i * ldy + c);
            }
            lanes.store(part + c, sum);
            lanes.store(part + C + c, product);
        });
        add_to(total, part, 2 * C);
    }
}

inline void conv1x1_backward(const float* x, Index ldx, const float* scale, const float* shift, const float* centre,
                               const float* w, const float* dz, Index lddz, const float* h, Index ldh, const float* dz_scale,
                               const float* h_scale, const float* offset, float* acc_x, Index ldacc, float* dscale, float* dshift, float* dw,
                               Index finalised, float* sums, float* products, Index M, Index C, Index N, int threads) {
    const Index Cv = round_up(C, V), Nv = round_up(N, V), lda = Cv + 16, ldd = Nv + 16;
    // Each tile reads and writes the weight gradient, which of a wide net fills the cache: two groups, if every thread gets a few.
    const Index tile = mc_for(lda + ldd, BACKWARD_TILE_FLOATS, M >= 4 * MR_MULTIPLE * threads ? 2 : 1);
    const Padded s(scale, C), t(shift, C), m(centre, C), ca(dz_scale, N), cb(h_scale, N), cc(offset, N);
    Buffer<float> packed(N * Cv);
    pack(packed, N, C, [&](Index n, Index c) { return w[n * C + c]; });
    PerThread<float> activations(threads, tile * lda), gradients(threads, tile * ldd), parts(threads, 2 * Cv), dws(threads, C * Nv);
    PerThread<double> totals(threads, 2 * Cv + 2 * finalised);  // of dscale and dshift, then of what closes
    parallel(threads, (M + tile - 1) / tile, [&](Index begin, Index end, int thread) {
        float *a = activations[thread], *d = gradients[thread], *sum = parts[thread], *dw_part = dws[thread];
        for (Index u = begin; u < end; ++u) {
            const Index first = u * tile, rows = std::min(tile, M - first), next = first + rows;
            Prefetcher prefetcher(u + 1 < end ? std::min(tile, M - next) : 0, micro_tiles(C, N) * prefetch_intervals(rows, PREFETCH_INTERVAL_ROWS));
            prefetcher.add(x + next * ldx, ldx, C);
            prefetcher.add(dz + next * lddz, lddz, N);
            prefetcher.add(h + next * ldh, ldh, N);
            prefetcher.add(acc_x + next * ldacc, ldacc, C);
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
                                float* to = acc_x + (first + i + j) * ldacc + column;
                                store(to, load(to) + g * factor);
                            }
                        store(sum + column, ds);
                        store(sum + Cv + column, db);
                    }
                }
            });
            add_to(totals[thread], sum, 2 * Cv);
            // No consumer of these maps is left: their batch norm backward can begin, while they are in the cache.
            add_column_reductions(acc_x + first * ldacc + C - finalised, ldacc, x + first * ldx + C - finalised, ldx, totals[thread] + 2 * Cv, sum, rows,
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
        sums[c] = static_cast<float>(totals.sum(2 * Cv + c));
        products[c] = static_cast<float>(totals.sum(2 * Cv + finalised + c));
    }
    for (Index c = 0; c < C; ++c) {
        dscale[c] = static_cast<float>(totals.sum(c));
        dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
    parallel(threads, Cv / V, [&](Index begin, Index end, int) {
        for (Index u = begin; u < end; ++u)
            for (Index n = 0; n < N; ++n)
                for (Index c = u * V; c < std::min(C, (u + 1) * V); ++c) dw[n * C + c] = static_cast<float>(dws.sum(c * Nv + n));
    });
}

// The gradient of raw maps, of that of the normalised maps x: rstd * (dx - mean_dx - x * mean_product) + direct, if any.
// Without x it is dx itself.
struct PendingNormBackward {
    const float* dx;
    Index lddx;
    const float* x;
    Index ldx;
    const float* direct;
    Index lddirect;
    const float *rstd, *mean_dx, *mean_product;

    // Rows first .. first + count - 1 of C columns.
    void rows(Index first, Index count, float* to, Index ldto, Index C) const {
        for_columns(C, [&](auto lanes, Index c) __attribute__((always_inline)) {
            const float* d = dx + first * lddx + c;
            if (!x) {
                for (Index i = 0; i < count; ++i) lanes.store(to + i * ldto + c, lanes.load(d + i * lddx));
                return;
            }
            const auto factor = lanes.load(rstd + c), mean = lanes.load(mean_dx + c), product = lanes.load(mean_product + c);
            for (Index i = 0; i < count; ++i) {
                const auto value = lanes.load(x + (first + i) * ldx + c);
                const auto gradient = factor * (lanes.load(d + i * lddx) - mean - value * product);
                lanes.store(to + i * ldto + c, direct ? gradient + lanes.load(direct + (first + i) * lddirect + c) : gradient);
            }
        });
    }
    void fetch(Prefetcher& prefetcher, Index first, Index C) const {
        prefetcher.add(dx + first * lddx, lddx, C);
        if (x) prefetcher.add(x + first * ldx, ldx, C);
        if (direct) prefetcher.add(direct + first * lddirect, lddirect, C);
    }
};

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

inline void conv3x3(const float* x, Index ldx, const float* scale, const float* shift, const float* w, float* y, Index ldy, Index N,
                    Index H, Index W, Index C, Index K, int threads) {
    const Padded s(scale, C), t(shift, C);
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
            prefetcher.add(x + (next + W) * ldx, ldx, C);  // this strip held the next one's first row, but at an image's end
            prefetcher.add(y + next * ldy, ldy, K);
            conv3x3_strip(a, strip, packed, y + (image * H + first) * W * ldy, ldy, last - first, K, prefetcher);
        }
    });
}

inline void conv3x3_backward(const float* x, Index ldx, const float* scale, const float* shift, const float* centre, const float* w,
                             const PendingNormBackward& dy, float* dz, Index lddz, float* dscale, float* dshift, float* dw, Index N,
                             Index H, Index W, Index C, Index K, int threads) {
    const Index Cv = round_up(C, V);
    const Padded s(scale, C), t(shift, C), m(centre, C);
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
                dy.rows((image * H + row) * W, W, to, K, K);
            });
            const Index next = (image * H + last) * W;
            Prefetcher prefetcher = strips.prefetcher(u, end, C, K);
            prefetcher.add(x + (next + W) * ldx, ldx, C);
            dy.fetch(prefetcher, next + W, K);
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
        dscale[c] = static_cast<float>(totals.sum(c));
        dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
    parallel(threads, K, [&](Index begin, Index end, int) {
        for (Index k = begin; k < end; ++k)
            for (Index c = 0; c < C; ++c)
                for (Index tap = 0; tap < 9; ++tap) dw[(k * C + c) * 9 + tap] = static_cast<float>(dws.sum((tap * K + k) * Cv + c));
    });
}

inline void column_reductions(const float* x, Index ldx, const float* y, Index ldy, float* sums, float* products, Index M, Index C, int threads) {
    PerThread<double> totals(threads, 2 * C);
    PerThread<float> parts(threads, 2 * C);
    const Index tiles = (M + STATISTICS_ROWS - 1) / STATISTICS_ROWS;
    parallel(threads, tiles, [&](Index begin, Index end, int thread) {
        for (Index u = begin; u < end; ++u) {
            const Index first = u * STATISTICS_ROWS;
            add_column_reductions(x + first * ldx, ldx, y + first * ldy, ldy, totals[thread], parts[thread], std::min(STATISTICS_ROWS, M - first), C);
        }
    });
    for (Index c = 0; c < C; ++c) {
        sums[c] = static_cast<float>(totals.sum(c));
        products[c] = static_cast<float>(totals.sum(C + c));
    }
}

inline void normalise_backward(const PendingNormBackward& dy, float* out, Index ldo, Index M, Index C, int threads) {
    parallel(threads, M, [&](Index begin, Index end, int) {
        for (Index i = begin; i < end; i += PREFETCH_ROWS) {
            const Index count = std::min(PREFETCH_ROWS, end - i);
            prefetch_rows(dy.dx + (i + PREFETCH_ROWS) * dy.lddx, dy.lddx, count, C);
            prefetch_rows(dy.x + (i + PREFETCH_ROWS) * dy.ldx, dy.ldx, count, C);
            dy.rows(i, count, out + i * ldo, ldo, C);
        }
    });
}

// y: rows of C floats, not padded; the last vector of a row is cut.
inline void bn_relu_pool(const float* x, Index ldx, const Padded& s, const Padded& t, float* y, Index ldy, Index N, Index H, Index W,
                         Index C, Index pool, int threads) {
    const Index h = H / pool, w = W / pool;
    const float share = 1.0f / static_cast<float>(pool * pool);
    parallel(threads, N * h, [&](Index begin, Index end, int) {
        for (Index u = begin; u < end; ++u)
            for (Index p = 0; p < w; ++p) {
                const float* corner = x + ((u / h * H + u % h * pool) * W + p * pool) * ldx;
                float* to = y + (u * w + p) * ldy;
                for (Index c = 0; c < C; c += V) {
                    const Vector factor = load(s + c), offset = load(t + c);
                    Vector sum = zero();
                    for (Index j = 0; j < pool; ++j)
                        for (Index i = 0; i < pool; ++i) sum += relu(load(corner + (j * W + i) * ldx + c) * factor + offset);
                    sum *= share;
                    if (c + V <= C)
                        store(to + c, sum);
                    else
                        std::memcpy(to + c, &sum, static_cast<std::size_t>(C - c) * sizeof(float));
                }
            }
    });
}

inline void bn_relu_pool_backward(const float* x, Index ldx, const float* scale, const float* shift, const float* centre,
                                  const float* dy, Index lddy, float* dx, Index lddx, float* dscale, float* dshift, Index N, Index H,
                                  Index W, Index C, Index pool, int threads) {
    const Index Cv = round_up(C, V), h = H / pool, w = W / pool;
    const Padded s(scale, C), t(shift, C), m(centre, C);
    const float share = 1.0f / static_cast<float>(pool * pool);
    PerThread<float> sums(threads, 2 * Cv), rows(threads, Cv);
    PerThread<double> totals(threads, 2 * Cv);
    parallel(threads, N * H, [&](Index begin, Index end, int thread) {
        float *sum = sums[thread], *gradient = rows[thread];
        for (Index u = begin; u < end; ++u) {
            const Index image = u / H, y = u % H / pool;
            std::memset(sum, 0, static_cast<std::size_t>(2 * Cv) * sizeof(float));
            for (Index p = 0; p < W; ++p) {
                // Rows and columns that do not fill a pool were left out of it.
                const bool pooled = y < h && p / pool < w;
                if (p % pool == 0 || !pooled) {
                    std::memset(gradient, 0, static_cast<std::size_t>(C) * sizeof(float));
                    if (pooled) std::memcpy(gradient, dy + ((image * h + y) * w + p / pool) * lddy, static_cast<std::size_t>(C) * sizeof(float));
                }
                const float* from = x + (u * W + p) * ldx;
                float* to = dx + (u * W + p) * lddx;
                for (Index c = 0; c < C; c += V) {
                    const Vector value = load(from + c), factor = load(s + c);
                    const Vector g = masked(load(gradient + c) * share, relu(value * factor + load(t + c)));
                    store(sum + c, load(sum + c) + g * (value - load(m + c)));
                    store(sum + Cv + c, load(sum + Cv + c) + g);
                    store(to + c, g * factor);
                }
            }
            add_to(totals[thread], sum, 2 * Cv);
        }
    });
    for (Index c = 0; c < C; ++c) {
        dscale[c] = static_cast<float>(totals.sum(c));
        dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
}

}  // namespace densekit
