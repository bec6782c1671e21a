// Every kernel on odd sizes, in memory of exactly the size that the contract in primitives.hpp allows, to be compiled
// with kernels.cpp under -fsanitize=address,undefined. Argument: a number of threads. Prints how many calls it made.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

using I = std::ptrdiff_t;
using P = const float*;

extern "C" {
int densekit_statistics(P, I, float*, float*, I, I, int);
int densekit_normalise(P, I, P, P, float*, I, I, I, int);
int densekit_conv1x1(float*, I, P, I, P, P, I, P, P, P, float*, I, float*, float*, I, I, I, int);
int densekit_conv1x1_backward(P, I, P, P, P, P, P, I, P, I, P, P, P, float*, I, float*, float*, float*, I, float*, float*, I, I, I,
                                int);
int densekit_conv3x3(P, I, P, P, P, float*, I, I, I, I, I, I, int);
int densekit_conv3x3_backward(P, I, P, P, P, P, P, I, P, I, P, I, P, P, P, float*, I, float*, float*, float*, I, I, I, I, I, int);
int densekit_column_reductions(P, I, P, I, float*, float*, I, I, int);
int densekit_normalise_backward(P, I, P, I, P, I, P, P, P, float*, I, I, I, int);
int densekit_bn_relu_pool(P, I, P, P, float*, I, I, I, I, I, I, int);
int densekit_bn_relu_pool_backward(P, I, P, P, P, P, I, float*, I, float*, float*, I, I, I, I, I, int);
int densekit_digest(const P*, const I*, I, std::uint64_t*, int);
int densekit_dense_block(P, I, const P*, P, P, I, float*, I, I, I, I, I, I, I, int);
I densekit_dense_layer_size(I, I, I);
void densekit_pack_dense_layer(P, P, P, float*, I, I, I);
void densekit_advise(void*, I);
}

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

void finite(const char* name, const float* values, I rows, I columns, I ld) {
    for (I i = 0; i < rows; ++i)
        for (I c = 0; c < columns; ++c)
            if (!std::isfinite(values[i * ld + c])) std::printf("%s: not a number at %td, %td\n", name, i, c), std::exit(3);
}

// rows of `ld` floats and not one more, so that the sanitizer sees who reads on.
struct Matrix {
    I rows, columns, ld;
    std::unique_ptr<float[]> data;

    Matrix(I rows_, I columns_, I ld_) : rows(rows_), columns(columns_), ld(ld_), data(new float[static_cast<std::size_t>(rows * ld)]) {
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

struct Values : Matrix {
    explicit Values(I count) : Matrix(1, count, count) {}
};

Matrix whole(I rows, I columns) { return {rows, columns, padded(columns)}; }
Matrix tight(I rows, I columns) { return {rows, columns, columns}; }

void primitives(I N, I H, I W, I C, I width, I K, int threads) {
    const I M = N * H * W;
    const Values scale(C), shift(C), centre(C), w1(width * C), w3(K * C * 9), scale2(width), shift2(width), offset(width);
    const Matrix x = whole(M, C), bare = tight(M, C), direct = tight(M, C), out = tight(M, C), dz = whole(M, width), dy = tight(M, K);
    const Values dscale(C), dshift(C), dw1(width * C), dw3(K * C * 9), mean(C), variance(C), mean2(width), variance2(width);

    done("statistics", densekit_statistics(bare, bare.ld, mean.blank(), variance.blank(), M, C, threads));
    mean.check("mean"), variance.check("variance");
    done("normalise", densekit_normalise(bare, bare.ld, centre, scale, out.blank(), out.ld, M, C, threads));
    out.check("normalise");
    done("column_reductions", densekit_column_reductions(bare, bare.ld, out, out.ld, mean.blank(), variance.blank(), M, C, threads));
    mean.check("sums"), variance.check("products");
    const Matrix down = whole(M, C);
    for (P extra : {P(nullptr), P(direct)}) {
        done("normalise_backward", densekit_normalise_backward(bare, bare.ld, out, out.ld, extra, direct.ld, scale, shift, centre,
                                                               down.blank(), down.ld, M, C, threads));
        down.check("normalise_backward");
    }

    const Matrix h = whole(M, width);
    done("conv1x1", densekit_conv1x1(x, x.ld, nullptr, 0, nullptr, nullptr, 0, scale, shift, w1, h.blank(), h.ld, nullptr, nullptr, M,
                                         C, width, threads));
    h.check("conv1x1");
    for (I few : {I(1), (C + 1) / 2, C}) {
        done("conv1x1", densekit_conv1x1(few == C ? x.blank() : x, x.ld, bare, bare.ld, centre, scale, few, scale, shift, w1,
                                             h.blank(), h.ld, mean2.blank(), variance2.blank(), M, C, width, threads));
        x.check("normalised maps"), h.check("conv1x1"), mean2.check("its mean"), variance2.check("its variance");
    }
    for (I finalised : {I(0), I(1), (C + 1) / 2, C}) {
        const Matrix dx = whole(M, C);
        const Values sums(finalised), products(finalised);
        done("conv1x1_backward",
             densekit_conv1x1_backward(x, x.ld, scale, shift, centre, w1, dz, dz.ld, h, h.ld, scale2, shift2, offset, dx, dx.ld,
                                         dscale.blank(), dshift.blank(), dw1.blank(), finalised, sums.blank(), products.blank(), M, C, width,
                                         threads));
        dx.check("conv1x1_backward"), dscale.check("dscale"), dshift.check("dshift"), dw1.check("dw"), sums.check("finalised");
        products.check("finalised");
    }

    const Matrix y = whole(M, K), dx = whole(M, C);
    done("conv3x3", densekit_conv3x3(x, x.ld, scale, shift, w3, y.blank(), y.ld, N, H, W, C, K, threads));
    y.check("conv3x3");
    const I few = std::min(K, C);
    const Matrix y_direct = tight(M, K);
    for (int way : {0, 1, 2}) {  // a gradient as it is; through a batch norm, from the last columns of matrices; and one more beside
        const P values = way ? static_cast<float*>(bare) + C - few : nullptr, flow = way ? static_cast<float*>(direct) + C - few : dy;
        done("conv3x3_backward",
             densekit_conv3x3_backward(x, x.ld, scale, shift, centre, w3, flow, way ? direct.ld : dy.ld, values, bare.ld,
                                       way == 2 ? static_cast<P>(y_direct) : nullptr, y_direct.ld, scale, shift, centre, dx.blank(), dx.ld,
                                       dscale.blank(), dshift.blank(), way ? dw3 : dw3.blank(), N, H, W, C, way ? few : K, threads));
        dx.check("conv3x3_backward"), dscale.check("dscale"), dshift.check("dshift"), dw3.check("dw");
    }

    for (I pool : {1, 2, 3}) {
        if (H < pool || W < pool) continue;
        const Matrix pooled = tight(N * (H / pool) * (W / pool), C), up = tight(pooled.rows, C);
        done("bn_relu_pool", densekit_bn_relu_pool(x, x.ld, scale, shift, pooled.blank(), pooled.ld, N, H, W, C, pool, threads));
        pooled.check("bn_relu_pool");
        done("bn_relu_pool_backward", densekit_bn_relu_pool_backward(x, x.ld, scale, shift, centre, up, up.ld, down.blank(),
                                                                     down.ld, dscale.blank(), dshift.blank(), N, H, W, C, pool, threads));
        down.check("bn_relu_pool_backward"), dscale.check("dscale"), dshift.check("dshift");
    }
    const P arrays[] = {x, scale};
    const I sizes[] = {M * x.ld, C};
    std::uint64_t digest;
    done("digest", densekit_digest(arrays, sizes, 2, &digest, threads));
    densekit_advise(x, M * x.ld * 4);
}

// Its input and output are not padded; factors and offsets have zeros up to 16 floats.
void block(I N, I H, I W, I C, I layers, I width, I K, I pool, int threads) {
    const auto zeros_behind = [](I count) {
        Matrix m(1, count, padded(count));
        for (I c = count; c < m.ld; ++c) m[c] = 0;
        return m;
    };
    std::vector<Matrix> kept;
    for (I l = 0; l < layers; ++l) {
        const I seen = C + l * K;
        kept.push_back(zeros_behind(seen)), kept.push_back(zeros_behind(seen));
        kept.push_back(tight(1, densekit_dense_layer_size(seen, width, K)));
        densekit_pack_dense_layer(Values(width * seen), Values(width), Values(K * width * 9), kept.back(), seen, width, K);
        kept.push_back(zeros_behind(width));
    }
    const std::vector<P> weights(kept.begin(), kept.end());
    const I total = C + layers * K, rows = pool ? N * (H / pool) * (W / pool) : N * H * W;
    const Matrix x = tight(N * H * W, C), out = tight(rows, total);
    const Values scale(total), shift(total);
    done("dense_block",
         densekit_dense_block(x, x.ld, weights.data(), scale, shift, pool, out, N, H, W, C, layers, width, K, threads));
    out.check("dense_block");
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
            primitives(N, H, W, C, width, K, threads);
            for (I pool : {0, 1, 2})
                if (H >= pool && W >= pool) block(N, H, W, C, 3, width, K, pool, threads);
        }
    std::printf("%d calls\n", calls);
}
