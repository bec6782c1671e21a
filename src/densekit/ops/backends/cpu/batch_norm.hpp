// Batch norm, forward and backward, with the ReLU and the pool that follow it. All of it is bound by memory: each row is read
// once, and whatever can be done while it is in the cache is done then.
//
//     statistics, column_reductions:                       normalise, and its backward:
//         for each tile of STATISTICS_ROWS rows                for each group of PREFETCH_ROWS rows
//             for each vector of columns                           prefetch the next group
//                 for each row: add, in registers                  for each vector of columns
//             add to the thread's sums, in float64                     for each row
//
//     bn_relu_pool:                                        bn_relu_pool_backward:
//         for each row of the output                           for each row of the input
//             for each pixel, for each vector of columns           for each pixel, for each vector of columns
//                 for each of the pool's pixels                        mask, scale, add to the row's sums
//
// STATISTICS_ROWS: few enough that a float32 sum loses no digits that matter, many enough that float64 costs nothing.
#pragma once
#include "kernels.h"
#include "prefetch.hpp"
#include "threads.hpp"

namespace densekit {

constexpr Index STATISTICS_ROWS = 128;

// to[i] = relu(x[i] * scale + shift), whole vectors.
INLINE void bn_relu(const float* x, const float* scale, const float* shift, float* to, Index C) {
    for (Index c = 0; c < C; c += V) store(to + c, relu(load(x + c) * load(scale + c) + load(shift + c)));
}

// Mean and sum of squared deviations of columns, merged tile by tile (Chan, Golub and LeVeque 1979): a tile's are taken
// about its own mean, so a large common offset costs no digits.
class Moments {
public:
    Moments(int threads, Index columns)
        : columns_(columns), threads_(threads), found_(threads, 1 + 2 * columns) {}

    // Rows of `ld` floats; whole vectors are read where `whole`, else only the columns there are.
    void add(int thread, const float* x, Index ld, Index rows, bool whole) {
        double *count = found_[thread], *mean = count + 1, *square = mean + columns_;
        const double before = *count, total = before + static_cast<double>(rows);
        for_columns(whole ? round_up(columns_, V) : columns_, [&](auto lanes, Index c) __attribute__((always_inline)) {
            typename decltype(lanes)::Type about{}, sum{}, deviation{};
            for (Index i = 0; i < rows; ++i) about += lanes.load(x + i * ld + c);
            about /= static_cast<float>(rows);
            for (Index i = 0; i < rows; ++i) {
                const auto d = lanes.load(x + i * ld + c) - about;
                sum += d;
                deviation += d * d;
            }
            constexpr Index W = sizeof(sum) / sizeof(float);
            for (Index j = 0; j < std::min(W, columns_ - c); ++j)
                merge(mean[c + j], square[c + j], about[j], sum[j], deviation[j], before, total);
        });
        *count = total;
    }

    // Mean and biased variance over all threads.
    void finish(float* mean, float* variance) const {
        for (Index c = 0; c < columns_; ++c) {
            double m = 0, s = 0, count = 0;
            for (int t = 0; t < threads_; ++t) {
                const double* found = found_[t];
                const double more = found[0];
                if (more == 0) continue;
                const double delta = found[1 + c] - m;
                m += delta * (more / (count + more));
                s += found[1 + columns_ + c] + delta * delta * (count * more / (count + more));
                count += more;
            }
            mean[c] = static_cast<float>(m);
            variance[c] = static_cast<float>(s / count);
        }
    }

private:
    // `about` is the tile's mean but for its rounding, which the sum of deviations from it tells.
    static void merge(double& mean, double& square, double about, double sum, double deviation, double before, double total) {
        const double rows = total - before, delta = about + sum / rows - mean;
        mean += delta * (rows / total);
        square += deviation - sum * sum / rows + delta * delta * (before * rows / total);
    }

    Index columns_;
    int threads_;
    PerThread<double> found_;  // how many rows, the means, the sums of squares
};

inline void statistics(const statistics_args& args, int threads) {
    const float* const x = args.x.data;
    const Index ldx = args.x.ld, M = args.M, C = args.C;
    Moments moments(threads, C);
    const Index tiles = (M + STATISTICS_ROWS - 1) / STATISTICS_ROWS;
    // Whole vectors may be read of all rows that another one follows.
    const bool whole = round_up(C, V) - C <= ldx;
    parallel(threads, tiles, [&](Index begin, Index end, int thread) {
        for (Index u = begin; u < end; ++u)
            moments.add(thread, x + u * STATISTICS_ROWS * ldx, ldx, std::min(STATISTICS_ROWS, M - u * STATISTICS_ROWS),
                        whole && u + 1 < tiles);
    });
    moments.finish(args.mean, args.variance);
}

// Rows first .. first + count - 1 of pending maps, normalised.
INLINE void normalise_rows(const PendingNorm& pending, Index columns, Index first, Index count, float* to, Index ldto) {
    const Index ld = pending.maps.ld;
    const float* const from = pending.maps.data + first * ld;
    for_columns(columns, [&](auto lanes, Index c) __attribute__((always_inline)) {
        const auto middle = lanes.load(pending.mean + c), factor = lanes.load(pending.rstd + c);
        for (Index i = 0; i < count; ++i)
            lanes.store(to + i * ldto + c, (lanes.load(from + i * ld + c) - middle) * factor);
    });
}

inline void normalise(const normalise_args& args, int threads) {
    float* const out = args.out.data;
    const Index ldo = args.out.ld, C = args.C;
    parallel(threads, args.M, [&](Index begin, Index end, int) {
        for (Index i = begin; i < end; i += PREFETCH_ROWS) {
            const Index count = std::min(PREFETCH_ROWS, end - i);
            prefetch_rows(out + (i + PREFETCH_ROWS) * ldo, ldo, count, C);
            normalise_rows(args.pending, C, i, count, out + i * ldo, ldo);
        }
    });
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

inline void column_reductions(const column_reductions_args& args, int threads) {
    const float *const x = args.x.data, *const y = args.y.data;
    const Index ldx = args.x.ld, ldy = args.y.ld, M = args.M, C = args.C;
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
        args.sums[c] = static_cast<float>(totals.sum(c));
        args.products[c] = static_cast<float>(totals.sum(C + c));
    }
}

// The gradient of raw maps in rows first .. first + count - 1 of C columns.
INLINE void normalise_backward_rows(const PendingNormBackward& pending, Index C, Index first, Index count, float* to, Index ldto) {
    const float *const dx = pending.dx.data, *const x = pending.x.data, *const direct = pending.direct.data;
    const Index lddx = pending.dx.ld, ldx = pending.x.ld, lddirect = pending.direct.ld;
    for_columns(C, [&](auto lanes, Index c) __attribute__((always_inline)) {
        const float* d = dx + first * lddx + c;
        if (!x) {
            for (Index i = 0; i < count; ++i) lanes.store(to + i * ldto + c, lanes.load(d + i * lddx));
            return;
        }
        const auto factor = lanes.load(pending.rstd + c), mean = lanes.load(pending.mean_dx + c);
        const auto product = lanes.load(pending.mean_product + c);
        for (Index i = 0; i < count; ++i) {
            const auto value = lanes.load(x + (first + i) * ldx + c);
            const auto gradient = factor * (lanes.load(d + i * lddx) - mean - value * product);
            lanes.store(to + i * ldto + c, direct ? gradient + lanes.load(direct + (first + i) * lddirect + c) : gradient);
        }
    });
}

INLINE void prefetch_gradient(const PendingNormBackward& pending, Prefetcher& prefetcher, Index first, Index C) {
    const auto add = [&](const ConstMatrix& m) {
        if (m.data) prefetcher.add(m.data + first * m.ld, m.ld, C);
    };
    add(pending.dx), add(pending.x), add(pending.direct);
}

inline void normalise_backward(const normalise_backward_args& args, int threads) {
    const PendingNormBackward& pending = args.pending;
    float* const out = args.out.data;
    const Index ldo = args.out.ld, C = args.C;
    parallel(threads, args.M, [&](Index begin, Index end, int) {
        for (Index i = begin; i < end; i += PREFETCH_ROWS) {
            const Index count = std::min(PREFETCH_ROWS, end - i);
            for (const ConstMatrix& m : {pending.dx, pending.x}) prefetch_rows(m.data + (i + PREFETCH_ROWS) * m.ld, m.ld, count, C);
            normalise_backward_rows(pending, C, i, count, out + i * ldo, ldo);
        }
    });
}

// y: rows of C floats, not padded; the last vector of a row is cut.
inline void bn_relu_pool_rows(const float* x, Index ldx, const Padded& s, const Padded& t, float* y, Index ldy, Index N, Index H, Index W,
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

inline void bn_relu_pool(const bn_relu_pool_args& args, int threads) {
    const Padded s(args.prologue.scale, args.C), t(args.prologue.shift, args.C);
    const auto [N, H, W] = args.size;
    bn_relu_pool_rows(args.x.data, args.x.ld, s, t, args.y.data, args.y.ld, N, H, W, args.C, args.pool, threads);
}

inline void bn_relu_pool_backward(const bn_relu_pool_backward_args& args, int threads) {
    const float *const x = args.x.data, *const dy = args.dy.data;
    float* const dx = args.dx.data;
    const Index ldx = args.x.ld, lddy = args.dy.ld, lddx = args.dx.ld;
    const Index N = args.size.images, H = args.size.height, W = args.size.width, C = args.C, pool = args.pool;
    const Index Cv = round_up(C, V), h = H / pool, w = W / pool;
    const Padded s(args.prologue.scale, C), t(args.prologue.shift, C), m(args.prologue.centre, C);
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
        args.dscale[c] = static_cast<float>(totals.sum(c));
        args.dshift[c] = static_cast<float>(totals.sum(Cv + c));
    }
}

}  // namespace densekit
