// What a graph answered for one image, checked before anything is concluded from it: see kdx/answers.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kdx::embed {

// How far rounding may move a cosine distance, which is 0 to 2, below 0.
constexpr double kRounding = 1.0 / 512;

// The lowest values that a method can give; where no declaration says more, distances are never negative.
struct AnswerLimits {
    double lowest_map = -kRounding, lowest_score = -kRounding;

    // KDX_REASON_NOT_FINITE, KDX_REASON_BELOW_RANGE, or KDX_REASON_NONE; of a raw map of so many values and its score.
    std::uint32_t fault_of(const float *map, std::size_t size, float score) const;
};

// The limits of a method; pair_spec: its declaration as bundles keep it, in JSON; size: of the graph's map.
AnswerLimits answer_limits(const std::string &pair_spec, std::size_t size);

}  // namespace kdx::embed
