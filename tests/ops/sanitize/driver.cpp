// Every kernel on odd sizes, in memory of exactly the size that the contract in kernels.h allows, to be compiled
// with kernels.cpp under -fsanitize=address,undefined. Argument: a number of threads. Prints how many calls it made.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels.h"

using namespace densekit;
using I = Index;
using P = const float*;

namespace {

constexpr I LANES = 16;
int calls = 0;

I padded(I columns) { return (columns + LANES - 1) / LANES * LANES; }

float draw() {
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / (1 << 23) - 1.0f;
}

void done(const char* name, int failed) {
    if (failed) std::printf("%s: out of memory\n", name), std::exit(2);
    ++calls;
}

// A kernel, by its arguments in the order of kernels.h.
#define CALL(name, ...)                                      \
    do {                                                     \
        const name##_args arguments{__VA_ARGS__};            \
        done(#name, densekit_##name(&arguments, threads));   \
    } while (false)

void finite(const char* name, const float* values, I rows, I columns, I ld) {
    for (I i = 0; i < rows; ++i)
        for (I c = 0; c < columns; ++c)
            if (!std::isfinite(values[i * ld + c])) std::printf("%s: not a number at %td, %td\n", name, i, c), std::exit(3);
}

// rows of `ld` floats and not one more, so that the sanitizer sees who reads on.
struct Rows {
    I rows, columns, ld;
    std::unique_ptr<float[]> data;

    Rows(I rows_, I columns_, I ld_) : rows(rows_), columns(columns_), ld(ld_), data(new float[static_cast<std::size_t>(rows * ld)]) {
        // What lies behind the columns is not a number: where it shows, it was used.
        for (I i = 0; i < rows; ++i)
            for (I c = 0; c < ld; ++c) data[i * ld + c] = c < columns ? draw() : NAN;
    }
    operator float*() const { return data.get(); }
    // For what is to be written: where something is left out, it shows.
    float* blank() const {
        std::fill_n(data.get(), rows * ld, NAN);
        return data.get();
    }
    void check(const char* name) const { finite(name, data.get(), rows, columns, ld); }
};

struct Values : Rows {
    explicit Values(I count) : Rows(1, count, count) {}
};

Rows whole(I rows, I columns) { return {rows, columns, padded(columns)}; }
Rows tight(I rows, I columns) { return {rows, columns, columns}; }

ConstMatrix view(const Rows& m) { return {m.data.get(), m.ld}; }
Matrix out(const Rows& m) { return {m.data.get(), m.ld}; }
Matrix blank(const Rows& m) { return {m.blank(), m.ld}; }

void primitives(MapSize size, I C, I width, I K, int threads) {
    const I M = size.images * size.height * size.width;
    const Values scale(C), shift(C), centre(C), w1(width * C), w3(K * C * 9), scale2(width), shift2(width), offset(width);
    const Rows x = whole(M, C), bare = tight(M, C), direct = tight(M, C), normal = tight(M, C), dz = whole(M, width), dy = tight(M, K);
    const Values dscale(C), dshift(C), dw1(width * C), dw3(K * C * 9), mean(C), variance(C), mean2(width), variance2(width);
    const BnRelu forward{scale, shift, nullptr}, backward{scale, shift, centre};

    CALL(statistics, view(bare), M, C, mean.blank(), variance.blank());
    mean.check("mean"), variance.check("variance");
    CALL(normalise, {view(bare), centre, scale}, M, C, blank(normal));
    normal.check("normalise");
    CALL(column_reductions, view(bare), view(normal), M, C, mean.blank(), variance.blank());
    mean.check("sums"), variance.check("products");
    const Rows down = whole(M, C);
    for (const ConstMatrix& extra : {ConstMatrix{nullptr, 0}, view(direct)}) {
        CALL(normalise_backward, {view(bare), view(normal), extra, scale, shift, centre}, M, C, blank(down));
        down.check("normalise_backward");
    }

    const Rows h = whole(M, width);
    CALL(conv1x1, out(x), {}, 0, forward, w1, M, C, width, blank(h), nullptr, nullptr);
    h.check("conv1x1");
    for (I few : {I(1), (C + 1) / 2, C}) {
        CALL(conv1x1, few == C ? blank(x) : out(x), {view(bare), centre, scale}, few, forward, w1, M, C, width, blank(h), mean2.blank(),
             variance2.blank());
        x.check("normalised maps"), h.check("conv1x1"), mean2.check("its mean"), variance2.check("its variance");
    }
    for (I finalised : {I(0), I(1), (C + 1) / 2, C}) {
        const Rows dx = whole(M, C);
        const Values sums(finalised), products(finalised);
        CALL(conv1x1_backward, view(x), backward, w1, {view(dz), view(h), scale2, shift2, offset}, finalised, M, C, width, out(dx),
             dscale.blank(), dshift.blank(), dw1.blank(), sums.blank(), products.blank());
        dx.check("conv1x1_backward"), dscale.check("dscale"), dshift.check("dshift"), dw1.check("dw"), sums.check("finalised");
        products.check("finalised");
    }

    const Rows y = whole(M, K), dx = whole(M, C);
    CALL(conv3x3, view(x), forward, w3, size, C, K, blank(y));
    y.check("conv3x3");
    const I few = std::min(K, C);
    const Rows y_direct = tight(M, K);
    // A gradient as it is; through a batch norm, from the last columns of matrices; and one more beside it.
    const ConstMatrix values{bare.data.get() + C - few, bare.ld}, flow{direct.data.get() + C - few, direct.ld};
    for (const PendingNormBackward& given : {PendingNormBackward{view(dy), {}, {}, nullptr, nullptr, nullptr},
                                             PendingNormBackward{flow, values, {}, scale, shift, centre},
                                             PendingNormBackward{flow, values, view(y_direct), scale, shift, centre}}) {
        const bool pending = given.x.data;
        CALL(conv3x3_backward, view(x), backward, w3, given, size, C, pending ? few : K, blank(dx), dscale.blank(), dshift.blank(),
             pending ? static_cast<float*>(dw3) : dw3.blank());
        dx.check("conv3x3_backward"), dscale.check("dscale"), dshift.check("dshift"), dw3.check("dw");
    }

    for (I pool : {1, 2, 3}) {
        if (size.height < pool || size.width < pool) continue;
        const Rows pooled = tight(size.images * (size.height / pool) * (size.width / pool), C), up = tight(pooled.rows, C);
        CALL(bn_relu_pool, view(x), forward, size, C, pool, blank(pooled));
        pooled.check("bn_relu_pool");
        CALL(bn_relu_pool_backward, view(x), backward, view(up), size, C, pool, blank(down), dscale.blank(), dshift.blank());
        down.check("bn_relu_pool_backward"), dscale.check("dscale"), dshift.check("dshift");
    }
    const P arrays[] = {x, scale};
    const I sizes[] = {M * x.ld, C};
    std::uint64_t digest;
    CALL(digest, arrays, sizes, 2, &digest);
    CALL(advise_huge_pages, x, M * x.ld * 4);
}

// Its input and output are not padded; factors and offsets have zeros up to 16 floats.
void block(MapSize size, I C, I layers, I width, I K, I pool, int threads) {
    const auto zeros_behind = [](I count) {
        Rows m(1, count, padded(count));
        for (I c = count; c < m.ld; ++c) m[c] = 0;
        return m;
    };
    std::vector<Rows> kept;
    for (I l = 0; l < layers; ++l) {
        const I seen = C + l * K;
        kept.push_back(zeros_behind(seen)), kept.push_back(zeros_behind(seen));
        I floats;
        CALL(dense_layer_size, seen, width, K, &floats);
        kept.push_back(tight(1, floats));
        const Values w1(width * seen), factor(width), w3(K * width * 9);
        CALL(pack_dense_layer, w1, factor, w3, seen, width, K, kept.back());
        kept.push_back(zeros_behind(width));
    }
    const std::vector<P> weights(kept.begin(), kept.end());
    const I total = C + layers * K, up = std::max<I>(pool, 1);
    const I rows = size.images * (size.height / up) * (size.width / up);
    const Rows x = tight(size.images * size.height * size.width, C), y = tight(rows, total);
    const Values scale(total), shift(total);
    CALL(dense_block, view(x), weights.data(), {scale, shift, nullptr}, pool, size, C, layers, width, K, y);
    y.check("dense_block");
}

}  // namespace

int main(int count, char** arguments) {
    const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
    // One pixel, one image, one row, one column, H != W, more rows than a strip holds.
    const I sizes[][3] = {{1, 1, 1}, {3, 1, 1}, {1, 1, 9}, {1, 7, 1}, {1, 5, 7}, {2, 8, 8}, {5, 3, 13}, {1, 33, 30}, {1, 2, 120}};
    // Channels, width of the bottleneck, growth: one of each, multiples of a vector and not, wider than a panel, than tiles.
    const I channels[][3] = {{1, 1, 1}, {3, 7, 3}, {24, 48, 12}, {17, 33, 19}, {5, 16, 4}, {65, 80, 40}, {130, 136, 50}};
    for (const auto& [N, H, W] : sizes)
        for (const auto& [C, width, K] : channels) {
            primitives({N, H, W}, C, width, K, threads);
            for (I pool : {0, 1, 2})
                if (H >= pool && W >= pool) block({N, H, W}, C, 3, width, K, pool, threads);
        }
    std::printf("%d calls\n", calls);
}
