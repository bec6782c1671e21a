// The kernels' C interface: the one table of their signatures. kernels.cpp defines what it declares, bindings.py reads it to
// make ctypes structures and to check what Python passes, and the tests' driver calls by it.
//
// bindings.py understands: `struct NAME {`, a field a line as `TYPE NAME;`, `};`, and `KERNEL(NAME)`, which declares
// int densekit_NAME(const NAME_args*, int threads): 0 when done, 1 when there was no memory for its scratch.
//
// Matrices are NHWC maps seen as rows: M = N*H*W pixels, their C channels side by side, float32, `ld` floats from one row to
// the next. Those that are marked "padded" are read or written by whole vectors, so `ld` is a multiple of 16 and the last row
// is as long; columns past the last are read and discarded, or written with values that the caller overwrites. Vectors hold
// one value a column and are contiguous. What each kernel computes is written in torch operators in ops/backends/reference.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace densekit {

using Index = std::ptrdiff_t;

struct Matrix {
    float* data;
    Index ld;
};

struct ConstMatrix {
    const float* data;
    Index ld;
};

struct MapSize {
    Index images;
    Index height;
    Index width;
};

// A convolution's prologue: relu(x * scale + shift). The gradient of scale is the sum of dz * (x - centre); a null centre is 0.
struct BnRelu {
    const float* scale;
    const float* shift;
    const float* centre;
};

// Maps that are still to be normalised into the last columns of a matrix: (maps - mean) * rstd.
struct PendingNorm {
    ConstMatrix maps;
    const float* mean;
    const float* rstd;
};

// The gradient of raw maps, rstd * (dx - mean_dx - x * mean_product) + direct (if any), of that of the normalised maps x.
// Without x it is dx itself.
struct PendingNormBackward {
    ConstMatrix dx;
    ConstMatrix x;
    ConstMatrix direct;
    const float* rstd;
    const float* mean_dx;
    const float* mean_product;
};

// The gradient of h behind its batch norm: dz * dz_scale + h * h_scale + offset. dz and h are padded.
struct BatchNormGradient {
    ConstMatrix dz;
    ConstMatrix h;
    const float* dz_scale;
    const float* h_scale;
    const float* offset;
};

// x: any matrix.
struct statistics_args {
    ConstMatrix x;
    Index M;
    Index C;
    float* mean;
    float* variance;
};

struct normalise_args {
    PendingNorm pending;
    Index M;
    Index C;
    Matrix out;
};

struct normalise_backward_args {
    PendingNormBackward pending;
    Index M;
    Index C;
    Matrix out;
};

struct column_reductions_args {
    ConstMatrix x;
    ConstMatrix y;
    Index M;
    Index C;
    float* sums;
    float* products;
};

// x (M, C) and h (M, N) padded; weight (N, C). mean and variance of h may be null.
struct conv1x1_args {
    Matrix x;
    PendingNorm pending;
    Index pending_columns;
    BnRelu prologue;
    const float* weight;
    Index M;
    Index C;
    Index N;
    Matrix h;
    float* mean;
    float* variance;
};

// x and dx padded.
struct conv1x1_backward_args {
    ConstMatrix x;
    BnRelu prologue;
    const float* weight;
    BatchNormGradient dh;
    Index finalised;
    Index M;
    Index C;
    Index N;
    Matrix dx;
    float* dscale;
    float* dshift;
    float* dweight;
    float* sums;
    float* products;
};

// x (M, C) and y (M, K) padded; weight (K, C, 3, 3).
struct conv3x3_args {
    ConstMatrix x;
    BnRelu prologue;
    const float* weight;
    MapSize size;
    Index C;
    Index K;
    Matrix y;
};

// x and dz padded.
struct conv3x3_backward_args {
    ConstMatrix x;
    BnRelu prologue;
    const float* weight;
    PendingNormBackward dy;
    MapSize size;
    Index C;
    Index K;
    Matrix dz;
    float* dscale;
    float* dshift;
    float* dweight;
};

// x padded; y (M / pool^2, C) any matrix.
struct bn_relu_pool_args {
    ConstMatrix x;
    BnRelu prologue;
    MapSize size;
    Index C;
    Index pool;
    Matrix y;
};

// x and dx padded.
struct bn_relu_pool_backward_args {
    ConstMatrix x;
    BnRelu prologue;
    ConstMatrix dy;
    MapSize size;
    Index C;
    Index pool;
    Matrix dx;
    float* dscale;
    float* dshift;
};

// Floats that pack_dense_layer writes.
struct dense_layer_size_args {
    Index C;
    Index N;
    Index K;
    Index* size;
};

struct pack_dense_layer_args {
    const float* conv1x1_weight;
    const float* scale;
    const float* conv3x3_weight;
    Index C;
    Index N;
    Index K;
    float* packed;
};

// weights: for each layer norm1's scale and shift, packed weights, and bias; vectors have zeros up to a multiple of 16 floats.
// pool 0: no epilogue. y: rows of C + layers * K floats, not padded.
struct dense_block_args {
    ConstMatrix x;
    const float* const* weights;
    BnRelu epilogue;
    Index pool;
    MapSize size;
    Index C;
    Index layers;
    Index N;
    Index K;
    float* y;
};

struct digest_args {
    const float* const* arrays;
    const Index* sizes;
    Index count;
    std::uint64_t* digest;
};

// Asks for huge pages: a matrix of tens of megabytes is written once a step, and faulting it in by small pages costs more.
struct advise_huge_pages_args {
    const float* data;
    Index bytes;
};

}  // namespace densekit

// sha256 of the sources that a library was compiled from, cut to 16 digits.
extern "C" const char* densekit_sources() noexcept;

#define KERNEL(name) extern "C" int densekit_##name(const densekit::name##_args* args, int threads) noexcept;
KERNEL(statistics)
KERNEL(normalise)
KERNEL(normalise_backward)
KERNEL(column_reductions)
KERNEL(conv1x1)
KERNEL(conv1x1_backward)
KERNEL(conv3x3)
KERNEL(conv3x3_backward)
KERNEL(bn_relu_pool)
KERNEL(bn_relu_pool_backward)
KERNEL(dense_layer_size)
KERNEL(pack_dense_layer)
KERNEL(dense_block)
KERNEL(digest)
KERNEL(advise_huge_pages)
#undef KERNEL
