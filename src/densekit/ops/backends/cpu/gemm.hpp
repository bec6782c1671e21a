// The matrix product that every convolution here is made of, C (M, N) = A (M, K) * B (K, N), in the words of BLIS and oneDNN:
//
//     for each tile of MC rows                             a thread's unit of work
//         prologue: A~ = relu(A * scale + shift)           the tile's rows, side by side in the first-level cache
//         for each panel of NR columns                     B packed as [panel][k][NR], so that it is read in order
//             for each group of MR rows                    MR x NR accumulators, all in registers
//                 for k in K: acc += A~[MR][k] * B~[k][NR]     the micro-kernel
//                 epilogue: store; in backward mask and add to sums, too
//
// NR: P vectors of V floats, P at most MAX_NR_VECTORS; next_panel cuts N so that no lone vector is left behind.
// MR: mr_for(P), as many rows as the vector registers hold: MR * P accumulators and P vectors of B take at most 28 of the 32 of
//     AVX-512 and NEON, and 14 of the 16 of AVX2 and SSE2, which need one more for a value of A.
// MC: mc_for, multiples of MR_MULTIPLE rows whose A~ fills a part of a cache (FORWARD_TILE_FLOATS, BACKWARD_TILE_FLOATS).
// KC: all of K, some hundred channels, of which a panel of B stays in the second-level cache: accumulators never leave the
//     registers before they are complete.
#pragma once
#include "threads.hpp"

namespace densekit {

#if V == 16 || defined(__aarch64__)
constexpr int MAX_NR_VECTORS = 4;
constexpr int mr_for(int panel) { return panel == 1 ? 12 : panel == 2 ? 12 : panel == 3 ? 8 : 6; }
#else
constexpr int MAX_NR_VECTORS = 2;
constexpr int mr_for(int panel) { return panel == 1 ? 12 : 6; }
#endif
constexpr int MR_MULTIPLE = 24;  // a multiple of every mr_for

// Vectors of the next panel when `left` remain: the widest that leaves no lone vector behind.
INLINE int next_panel(Index left) {
    if (MAX_NR_VECTORS == 2) return left >= 2 ? 2 : 1;
    return left % 4 == 0 ? 4 : left >= 3 ? 3 : static_cast<int>(left);
}

// Of a 32 or 48 KiB first-level cache, what a tile of activations may take. A backward tile may spill: larger ones add to the
// weight gradient less often.
constexpr Index FORWARD_TILE_FLOATS = 6 * 1024, BACKWARD_TILE_FLOATS = 12 * 1024;

// MC for rows of so many columns.
INLINE Index mc_for(Index columns, Index floats = FORWARD_TILE_FLOATS, Index fewest_groups = 1) {
    return std::clamp<Index>(floats / columns / MR_MULTIPLE, fewest_groups, 4) * MR_MULTIPLE;
}

// acc[r][v] += sum over k < K of a[r * lda + k] * w[k * P * V + v * V ..]: R rows by P vectors of columns.
template <int R, int P>
INLINE void micro_kernel(const float* a, Index lda, const float* w, Index K, Vector (&acc)[R][P]) {
    const float* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = a + r * lda;
    for (Index k = 0; k < K; ++k, w += P * V) {
        Vector column[P];
#pragma GCC unroll 4
        for (int v = 0; v < P; ++v) column[v] = load(w + v * V);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const float value = rows[r][k];
#pragma GCC unroll 4
            for (int v = 0; v < P; ++v) acc[r][v] += column[v] * value;
        }
    }
}

// acc[r][v] += sum over i < n of a[i * lda + r] * b[i * ldb + v * V ..]: the product of a weight gradient.
template <int R, int P>
INLINE void micro_kernel_transposed(const float* a, Index lda, const float* b, Index ldb, Index n, Vector (&acc)[R][P]) {
    for (Index i = 0; i < n; ++i, a += lda, b += ldb) {
        Vector column[P];
#pragma GCC unroll 4
        for (int v = 0; v < P; ++v) column[v] = load(b + v * V);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const float value = a[r];
#pragma GCC unroll 4
            for (int v = 0; v < P; ++v) acc[r][v] += column[v] * value;
        }
    }
}

template <int R, int P>
INLINE void clear(Vector (&acc)[R][P]) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < P; ++v) acc[r][v] = zero();
}

// Calls body(constant R) for the run-time number of rows, 1..MAX.
template <int R>
struct Rows {
    static constexpr int value = R;
};
template <int MAX, class Body>
INLINE void with_rows(int rows, Body&& body) {
    if constexpr (MAX == 1) {
        body(Rows<1>{});
    } else {
        if (rows == MAX)
            body(Rows<MAX>{});
        else
            with_rows<MAX - 1>(rows, body);
    }
}

// Calls body(constant P) for a panel of 1..MAX_NR_VECTORS vectors.
template <class Body>
INLINE void with_panel(int panel, Body&& body) {
    with_rows<MAX_NR_VECTORS>(panel, body);
}

// Columns c < C of w packed into panels: [panel][row][P * V], absent columns zero. element(row, column) reads w.
template <class Element>
inline void pack(float* packed, Index rows, Index columns, Element&& element) {
    const Index vectors = round_up(columns, V) / V;
    for (Index first = 0; first < vectors;) {
        const Index width = next_panel(vectors - first) * V;
        for (Index k = 0; k < rows; ++k)
            for (Index j = 0; j < width; ++j) {
                const Index column = first * V + j;
                *packed++ = column < columns ? element(k, column) : 0.0f;
            }
        first += width / V;
    }
}

// Walks the panels of `columns` columns: body(constant P, first column, packed weights of that panel).
template <class Body>
INLINE void for_panels(Index columns, Index rows, const float* packed, Body&& body) {
    const Index vectors = round_up(columns, V) / V;
    for (Index first = 0; first < vectors;) {
        const int panel = next_panel(vectors - first);
        with_panel(panel, [&](auto p) __attribute__((always_inline)) {
            body(p, first * V, packed ? packed + first * V * rows : nullptr);
        });
        first += panel;
    }
}

// How many micro-kernel calls, of MR x NR results each, cover rows by columns.
INLINE Index micro_tiles(Index rows, Index columns) {
    Index count = 0;
    for_panels(columns, 0, nullptr, [&](auto p, Index, const float*) { count += (rows + mr_for(p.value) - 1) / mr_for(p.value); });
    return count;
}

}  // namespace densekit
