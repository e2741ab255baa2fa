// The region of interest: see kdx/decision/roi.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kdx::embed {

struct Bundle;

// What became of a map's values that do not count.
class Roi {
public:
    // mask: 255 for pixels that count and 0 for others, rows row_stride bytes apart, of the bundle's image size. Throws
    // Failure (KDX_ERROR_ARGUMENT) where it has other values, excludes nothing or everything, or the method takes none.
    Roi(const Bundle &bundle, const std::uint8_t *mask, std::int64_t row_stride);

    // The score of the pixels that count; score is the graph's, and stays where it is not finite.
    float score_of(const float *map, float score) const;

    // Whether a pixel of the map counts.
    bool counts(std::size_t index) const { return counted_[index] != 0; }
    bool is_same(const Roi &other) const { return included_ == other.included_; }

private:
    std::vector<char> included_;  // by pixel of the camera
    std::vector<char> counted_;   // by pixel of the map
    std::vector<std::uint32_t> indices_;  // of the map's pixels that count
    bool is_sum_ = false;
};

// The region of a bundle's roi.png; throws Failure (KDX_ERROR_BUNDLE).
Roi read_roi(const Bundle &bundle);

}  // namespace kdx::embed
