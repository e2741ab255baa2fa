// Normalisation per position. The counterpart of kdx/decision/level_map.py.
#pragma once

#include <utility>
#include <vector>

#include "pair_spec.h"

namespace kdx::embed {

struct Bundle;

// The map value that good parts reach, for each pixel of the map.
class Level {
public:
    Level(std::vector<float> values, ScoreRule rule) : values_(std::move(values)), rule_(rule) {}

    // Writes the map divided by the level into `normalised`, and returns its score. `score` is the
    // graph's own score; it is returned unchanged if it is not finite.
    float apply(const float *map, float score, std::vector<float> &normalised) const;
    const std::vector<float> &values() const { return values_; }

private:
    std::vector<float> values_;
    ScoreRule rule_;
};

// Reads position_level.npy of a bundle; throws Failure (KDX_ERROR_BUNDLE).
Level read_level(const Bundle &bundle);

}  // namespace kdx::embed
