// Fetching what comes next from memory while the arithmetic units are busy.
//
//     for each tile                                        of a 1x1, or strip of a 3x3
//         prefetcher = the next tile's lines / the number of calls that this tile makes
//         for each micro-kernel, cut at prefetch intervals
//             prefetcher.fetch(): a few lines              into the second-level cache
//             the product of one interval
//
// Prefetch intervals: larger bursts would fill the line-fill buffers, and the product would wait for them. In terms of K for the
// forward 1x1 (COLUMNS), of rows for its weight gradient (ROWS), of taps times channels for the 3x3 (DEPTH).
#pragma once
#include <algorithm>
#include <cstdint>

#include "simd.hpp"

namespace densekit {

constexpr Index PREFETCH_INTERVAL_COLUMNS = 32, PREFETCH_INTERVAL_ROWS = 12, PREFETCH_INTERVAL_DEPTH = 144;

// Into how many intervals a length is cut.
INLINE Index prefetch_intervals(Index length, Index interval) { return (length + interval - 1) / interval; }

// A few columns of a wide matrix: hardware prefetchers do not follow such strides.
constexpr Index PREFETCH_ROWS = 16;
INLINE void prefetch_rows(const float* row, Index ld, Index rows, Index columns) {
    for (Index i = 0; i < rows; ++i, row += ld) {
        for (Index c = 0; c < columns; c += 16) __builtin_prefetch(row + c);
        __builtin_prefetch(row + columns - 1);
    }
}

// Fetches the next tile or strip into the second-level cache, a little at each call, while this tile is multiplied:
// otherwise memory and arithmetic take turns.
class Prefetcher {
public:
    Prefetcher(Index rows, Index calls) : rows_(std::max<Index>(rows, 0)), calls_(std::max<Index>(calls, 1)) {}

    void add(const float* first, Index ld, Index columns) {
        if (rows_ == 0) return;
        // A few columns may lie across two lines; where rows are padded, in all of them alike.
        const Index into = reinterpret_cast<std::uintptr_t>(first) % 64;
        const Index width = round_up(into + columns * 4, 64);
        parts_[count_++] = {reinterpret_cast<const char*>(first) - into, ld * 4, width};
        lines_ += rows_ * (width / 64);
        each_ = (lines_ + calls_ - 1) / calls_;
    }
    void fetch() {
        for (Index left = each_; left > 0 && part_ < count_; --left) {
            const Part& part = parts_[part_];
            __builtin_prefetch(part.first + row_ * part.ld + offset_, 0, 2);
            if ((offset_ += 64) < part.width) continue;
            offset_ = 0;
            if (++row_ == rows_) row_ = 0, ++part_;
        }
    }

private:
    struct Part {
        const char* first;
        Index ld, width;
    };
    Part parts_[5];  // as many as conv3x3_backward adds
    Index rows_, calls_, count_ = 0, lines_ = 0, each_ = 0, part_ = 0, row_ = 0, offset_ = 0;
};

}  // namespace densekit
