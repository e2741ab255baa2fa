// Normalisation per position: see kdx/decision/level_map.py.
#pragma once

#include <utility>
#include <vector>

namespace kdx::embed {

struct Bundle;

// How hot good parts get, by pixel of the map.
class Level {
public:
    Level(std::vector<float> values, bool is_sum) : values_(std::move(values)), is_sum_(is_sum) {}

    // Fills normalised with the map, divided by the level, and returns its score; score is the graph's, and stays where
    // it is not finite.
    float apply(const float *map, float score, std::vector<float> &normalised) const;
    const std::vector<float> &values() const { return values_; }

private:
    std::vector<float> values_;
    bool is_sum_;
};

// The level of a bundle's position_level.npy; throws Failure (KDX_ERROR_BUNDLE).
Level read_level(const Bundle &bundle);

}  // namespace kdx::embed
