// Vectors of V floats by the compiler's vector extension: one source for AVX-512, AVX2, SSE2 and NEON.
#pragma once
#include <cstddef>

#if defined(__AVX512F__)
#define V 16
#elif defined(__AVX2__)
#define V 8
#else
#define V 4
#endif

namespace densekit {

using Index = std::ptrdiff_t;

#define INLINE static inline __attribute__((always_inline))

// A vector of W floats, at any address of a float.
template <int W>
struct Lanes {
    typedef float Type __attribute__((vector_size(4 * W)));
    typedef float Loose __attribute__((vector_size(4 * W), aligned(4), may_alias));
    INLINE Type load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
    INLINE void store(float* p, Type x) { *reinterpret_cast<Loose*>(p) = x; }
};

using Vector = Lanes<V>::Type;

INLINE Vector load(const float* p) { return Lanes<V>::load(p); }
INLINE void store(float* p, Vector x) { Lanes<V>::store(p, x); }
INLINE Vector zero() { return Vector{}; }

// Columns by vectors, and what fills none by ever shorter ones: body(Lanes of W, first column), W = V, V / 2, ... 4, then 1.
template <int W = V, class Body>
INLINE void for_columns(Index columns, Body&& body, Index c = 0) {
    for (; c + W <= columns; c += W) body(Lanes<W>{}, c);
    if constexpr (W > 1) {
        if (c < columns) for_columns<W == 4 ? 1 : W / 2>(columns, body, c);
    }
}

// max(0, x) as torch has it: a NaN stays a NaN.
INLINE Vector relu(Vector x) { return x < zero() ? zero() : x; }
// The gradient passes where the rectified value is not <= 0, so it passes a NaN, as torch's threshold_backward.
INLINE Vector masked(Vector gradient, Vector rectified) { return rectified <= zero() ? zero() : gradient; }

// Registers decide how many rows a product keeps in flight: 32 vectors on AVX-512 and NEON, 16 elsewhere.
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

INLINE Index round_up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }

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

}  // namespace densekit
