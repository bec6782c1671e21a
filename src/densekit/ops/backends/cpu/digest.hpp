// A digest of arrays: what tells that weights were written by ways that torch does not count (Tensor.data, NumPy).
#pragma once
#include "kernels.h"
#include "threads.hpp"

namespace densekit {

typedef std::uint32_t Words __attribute__((vector_size(4 * V)));

// Bijective in either argument, so that one changed word always shows. The rotation carries high bits (a float's sign) down,
// where the next multiplication spreads them.
template <class T>
INLINE T hash_mix(T state, T word) {
    state = (state ^ word) * 0x9E3779B1u;
    return state << 15 | state >> 17;
}

// Of every bit, in as many lanes as keep the multipliers busy.
inline std::uint64_t digest_of(const float* array, Index size) {
    constexpr Index LANES = 8, STEP = LANES * V;
    Words lanes[LANES] = {}, word;
    Index i = 0;
    for (; i + STEP <= size; i += STEP) {
#pragma GCC unroll 8
        for (Index lane = 0; lane < LANES; ++lane) {
            std::memcpy(&word, array + i + lane * V, sizeof word);
            lanes[lane] = hash_mix(lanes[lane], word);
        }
    }
    std::uint32_t digests[2] = {static_cast<std::uint32_t>(size), 0};
#pragma GCC unroll 8
    for (Index lane = 0; lane < LANES; ++lane)
        for (Index v = 0; v < V; ++v) digests[v % 2] = hash_mix(digests[v % 2], static_cast<std::uint32_t>(lanes[lane][v]));
    for (; i < size; ++i) {
        std::uint32_t last;
        std::memcpy(&last, array + i, sizeof last);
        digests[i % 2] = hash_mix(digests[i % 2], last);
    }
    return static_cast<std::uint64_t>(digests[0]) << 32 | digests[1];
}

inline void digest(const digest_args& args, int threads) {
    const Index count = args.count;
    Buffer<std::uint64_t> each(count);
    parallel(threads, count, [&](Index begin, Index end, int) {
        for (Index i = begin; i < end; ++i) each[i] = digest_of(args.arrays[i], args.sizes[i]);
    });
    std::uint32_t high = 0, low = 0;
    for (Index i = 0; i < count; ++i) {
        high = hash_mix(high, static_cast<std::uint32_t>(each[i] >> 32));
        low = hash_mix(low, static_cast<std::uint32_t>(each[i]));
    }
    *args.digest = static_cast<std::uint64_t>(high) << 32 | low;
}

}  // namespace densekit
