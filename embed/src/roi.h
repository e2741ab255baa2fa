// The region of interest. The counterpart of kdx/decision/roi.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pair_spec.h"

namespace kdx::embed {

struct Bundle;

// Which pixels count, and the score of those that do.
class Roi {
public:
    // mask: 255 for pixels that count and 0 for others, in rows row_stride bytes apart, of the
    // camera's size. Throws Failure (KDX_ERROR_ARGUMENT) if it has other values, if it excludes
    // nothing or everything, or if the method takes no region.
    Roi(const Bundle &bundle, const std::uint8_t *mask, std::int64_t row_stride);

    // Returns the score of the pixels that count. `score` is the graph's own score; it is returned
    // if it is not finite.
    float score_of(const float *map, float score) const;

    // Whether a pixel of the map counts.
    bool counts(std::size_t index) const { return counted_[index] != 0; }
    bool is_same(const Roi &other) const { return included_ == other.included_; }

private:
    std::vector<char> included_;          // by pixel of the camera
    std::vector<char> counted_;           // by pixel of the map
    std::vector<std::uint32_t> indices_;  // of the map's pixels that count
    ScoreRule rule_;
};

// Reads roi.png of a bundle; throws Failure (KDX_ERROR_BUNDLE).
Roi read_roi(const Bundle &bundle);

}  // namespace kdx::embed
