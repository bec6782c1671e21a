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

INLINE Index round_up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace densekit
