// A dense block of bottlenecks in evaluation. Nothing ties one image to another, so a thread takes an image through all layers
// while its maps are in the cache; the bottleneck's never leave it.
//
//     for each image                                       a thread's unit of work, or its strips where images are few
//         for each layer
//             for each strip of rows                       its bottleneck maps fill LAYER_FLOATS; two rows are kept from the strip above
//                 for each tile of MC rows                 the nest of gemm.hpp: relu(norm1(x)) * conv1, norm2 folded in, + bias, relu
//                 the nest of conv3x3.hpp                  into the next K columns of the image's maps
//         epilogue: batch norm, ReLU and pool of all maps, or a copy
#pragma once
#include "conv3x3.hpp"

namespace densekit {

constexpr Index LAYER_FLOATS = 56 * 1024;  // bottleneck maps held at once: a 32x32 image of 48 of them

// Of one layer, as pack_dense_layer made them; scale and shift have zeros up to a multiple of 16 floats.
struct LayerWeights {
    const float *scale, *shift, *packed, *bias;
};

inline Index dense_layer_floats(Index C, Index N, Index K) { return C * round_up(N, V) + 9 * N * round_up(K, V); }

inline void dense_layer_size(const dense_layer_size_args& args, int) { *args.size = dense_layer_floats(args.C, args.N, args.K); }

// norm2's factor goes into the 1x1 convolution; its offset is the bias.
inline void pack_dense_layer(const pack_dense_layer_args& args, int) {
    const float *const w1 = args.conv1x1_weight, *const w2 = args.conv3x3_weight;
    const Index C = args.C, N = args.N, K = args.K;
    pack(args.packed, C, N, [&](Index c, Index n) { return w1[n * C + c] * args.scale[n]; });
    pack(args.packed + C * round_up(N, V), 9 * N, K, [&](Index row, Index k) { return w2[(k * N + row % N) * 9 + row / N]; });
}

// The first `columns` of a vector, where the next pixel's memory follows at once.
INLINE void store_columns(float* to, Vector x, Index columns) {
    if (columns >= V)
        store(to, x);
    else
        std::memcpy(to, &x, static_cast<std::size_t>(columns) * sizeof(float));
}

struct Block {
    Index H, W, first_channels, layers, width, growth;

    Index channels() const { return first_channels + layers * growth; }
    Index ld() const { return round_up(channels(), 16) + 16; }  // a layer's last store runs past its maps
};

// One layer on one strip of one image: reads the first C columns of x and writes the next `growth`. `before`: rows of the
// strip just above, if h holds it still, or 0; two rows of bottleneck maps are the same.
inline void layer_strip(const Block& block, const LayerWeights& weights, float* x, Index C, const Strip& strip, Index first, Index last,
                        Index before, float* a, float* h) {
    const Index W = block.W, H = block.H, ldx = block.ld(), width = block.width;
    const Index lda = round_up(C, V) + 16, tile = mc_for(lda);
    // The border of zeros: above and below the image, left and right of each row.
    const auto clear_floats = [](float* p, Index n) { std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(float)); };
    if (first == 0) clear_floats(h, strip.pitch);
    if (before) std::memmove(h, h + before * strip.pitch, static_cast<std::size_t>(2 * strip.pitch) * sizeof(float));
    if (last == H) clear_floats(h + (H - first + 1) * strip.pitch, strip.pitch);
    const Index top = before ? first + 1 : std::max<Index>(first - 1, 0), bottom = std::min(last + 1, H);
    const Index from = top * W, to = bottom * W;
    float* pixels[4 * MR_MULTIPLE];
    for (Index p0 = from; p0 < to; p0 += tile) {
        const Index rows = std::min(tile, to - p0);
        for (Index i = 0, y = p0 / W, column = p0 % W; i < rows; ++i) {
            bn_relu(x + (p0 + i) * ldx, weights.scale, weights.shift, a + i * lda, C);
            pixels[i] = h + (y - first + 1) * strip.pitch + (column + 1) * width;
            if (++column == W) column = 0, ++y;
        }
        for_panels(width, C, weights.packed, [&](auto p, Index n, const float* panel) __attribute__((always_inline)) {
            constexpr int P = decltype(p)::value, R = mr_for(P);
            Vector bias[P];
            for (int v = 0; v < P; ++v) bias[v] = load(weights.bias + n + v * V);
            for (Index i = 0; i < rows; i += R) {
                Vector acc[R][P];
                clear(acc);
                micro_kernel<R, P>(a + i * lda, lda, panel, C, acc);
#pragma GCC unroll 12
                for (int j = 0; j < R; ++j)
                    if (i + j < rows)
#pragma GCC unroll 4
                        for (int v = 0; v < P; ++v)
                            store_columns(pixels[i + j] + n + v * V, relu(acc[j][v] + bias[v]), width - n - v * V);
            }
        });
    }
    for (Index y = top; y < bottom; ++y) {
        float* row = h + (y - first + 1) * strip.pitch;
        clear_floats(row, width);
        clear_floats(row + strip.pitch - width, width);
    }
    Prefetcher none(0, 1);
    conv3x3_strip(h, strip, weights.packed + C * round_up(width, V), x + first * W * ldx + C, ldx, last - first, block.growth, none);
}

inline void dense_block(const dense_block_args& args, int threads) {
    const float *const x = args.x.data, *const scale = args.epilogue.scale, *const shift = args.epilogue.shift;
    float* const out = args.y;
    const Index ldx = args.x.ld, pool = args.pool, N = args.size.images, H = args.size.height, W = args.size.width;
    const Index C = args.C, layers = args.layers, width = args.N, growth = args.K;
    const Block block{H, W, C, layers, width, growth};
    const LayerWeights* each = reinterpret_cast<const LayerWeights*>(args.weights);
    const Index pixels = H * W, total = block.channels(), ld = block.ld();
    // Whole images to threads where that shares the work evenly, else all threads on each image's strips.
    const bool by_image = threads == 1 || N % threads == 0 || N >= 4 * threads;
    const int outer = by_image ? threads : 1, inner = by_image ? 1 : threads;
    const Strip strip(W, width);
    const Strips strips(1, H, W, width, inner, LAYER_FLOATS);
    const Index lda = round_up(total, V) + 16;
    PerThread<float> matrices(outer, pixels * ld, Fill::none);
    PerThread<float> activations(threads, std::max(FORWARD_TILE_FLOATS, MR_MULTIPLE * lda));  // of the largest tile
    PerThread<float> bottlenecks(threads, (strips.rows + 2) * strip.pitch + 16);
    const Padded s(scale, scale ? total : 0), t(shift, shift ? total : 0);  // allocated here: a thread could not report that memory ran out
    const Index out_pixels = pool ? (H / pool) * (W / pool) : pixels;
    parallel(outer, N, [&](Index begin, Index end, int thread) {
        float* matrix = matrices[thread];
        for (Index image = begin; image < end; ++image) {
            for (Index i = 0; i < pixels; ++i)
                std::memcpy(matrix + i * ld, x + (image * pixels + i) * ldx, static_cast<std::size_t>(C) * sizeof(float));
            for (Index l = 0; l < layers; ++l)
                parallel(inner, strips.units, [&](Index from, Index to, int within) {
                    const int worker = by_image ? thread : within;
                    for (Index u = from; u < to; ++u)
                        layer_strip(block, each[l], matrix, C + l * growth, strip, strips.first(u), strips.first(u) + strips.height(u),
                                    u > from ? strips.rows : 0, activations[worker], bottlenecks[worker]);
                });
            float* to = out + image * out_pixels * total;
            if (pool)
                bn_relu_pool_rows(matrix, ld, s, t, to, total, 1, H, W, total, pool, inner);
            else
                for (Index i = 0; i < pixels; ++i) std::memcpy(to + i * total, matrix + i * ld, static_cast<std::size_t>(total) * sizeof(float));
        }
    });
}

}  // namespace densekit
