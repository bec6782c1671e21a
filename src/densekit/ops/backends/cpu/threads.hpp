// The split of work between threads, their scratch memory, and their partial sums.
//
//     each kernel                                          is cut into units: tiles of rows, strips or images
//         for each thread                                  a contiguous share of the units, its own scratch and sums
//             for each unit of its share                   the kernel's loop nest
//         add up the threads' sums, in order               so that equal runs on equally many threads give equal bits
//
// SCRATCH_PADDING keeps the threads' scratch apart; PARALLEL_CLEAR_BYTES is from where clearing it is worth waking them.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "simd.hpp"

namespace densekit {

// body(first unit, last unit, thread): contiguous shares, the same for equal counts of units and threads.
template <class Body>
inline void parallel(int threads, Index units, Body&& body) {
#ifdef _OPENMP
    if (threads > 1 && units > 1) {
#pragma omp parallel num_threads(threads)
        {
            const Index count = omp_get_num_threads(), thread = omp_get_thread_num();
            body(units * thread / count, units * (thread + 1) / count, static_cast<int>(thread));
        }
        return;
    }
#endif
    (void)threads;
    body(0, units, 0);
}

enum class Fill { zeros, none };

// Aligned to a cache line, with a line's margin: vector loads may run past the last element.
template <class T>
class Buffer {
public:
    explicit Buffer(Index count, Fill fill = Fill::zeros) {
        const std::size_t bytes = static_cast<std::size_t>(round_up(count * static_cast<Index>(sizeof(T)) + 2 * 64, 64));
        data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
        if (!data_) throw std::bad_alloc();
        if (fill == Fill::zeros) std::memset(static_cast<void*>(data_.get()), 0, bytes);
    }
    operator T*() const { return data_.get(); }

private:
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

// A copy padded with zeros to whole vectors.
class Padded : public Buffer<float> {
public:
    Padded(const float* values, Index count) : Buffer(round_up(count, V)) {
        if (values) std::copy(values, values + count, static_cast<float*>(*this));
    }
};

// One block of memory a thread. Blocks lie SCRATCH_PADDING apart: the hardware prefetcher that follows the rows of one thread's
// tile runs on behind the last row, and would take those cache lines from the thread that writes them. On two threads that cost
// up to a fifth of the backward 1x1's time. 64 KiB were too few for rows of 4 KiB, 256 KiB are enough; one line more, as blocks a
// power of two apart would share the sets of a cache.
template <class T>
class PerThread {
public:
    PerThread(int threads, Index count, Fill fill = Fill::zeros)
        : stride_(block(count) + (threads > 1 ? SCRATCH_PADDING / static_cast<Index>(sizeof(T)) : 0)),
          data_(stride_ * threads, Fill::none),
          threads_(threads) {
        if (fill == Fill::none) return;
        const std::size_t bytes = static_cast<std::size_t>(block(count)) * sizeof(T);
        // Large blocks are cleared by their own threads.
        parallel(bytes * static_cast<std::size_t>(threads) < PARALLEL_CLEAR_BYTES ? 1 : threads, threads, [&](Index begin, Index end, int) {
            for (Index t = begin; t < end; ++t) std::memset(static_cast<void*>((*this)[static_cast<int>(t)]), 0, bytes);
        });
    }
    T* operator[](int thread) const { return static_cast<T*>(data_) + thread * stride_; }
    // In the order of the threads, so that equal runs give equal bits.
    double sum(Index i) const {
        double total = 0;
        for (int t = 0; t < threads_; ++t) total += (*this)[t][i];
        return total;
    }

private:
    static constexpr Index SCRATCH_PADDING = 256 * 1024 + 64, PARALLEL_CLEAR_BYTES = 128 * 1024;  // bytes
    static Index block(Index count) { return round_up(count + 16, 64); }

    Index stride_;
    Buffer<T> data_;
    int threads_;
};

// Adds what a thread summed in float32 over a few rows to its sums in float64.
INLINE void add_to(double* total, const float* part, Index count) {
    for (Index i = 0; i < count; ++i) total[i] += part[i];
}

}  // namespace densekit
