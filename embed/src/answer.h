// What a graph answered for one image, checked before anything is concluded from it: see kdx/decision/answers.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kdx::embed {

// How far rounding may move a cosine distance, which is 0 to 2, below 0.
constexpr double kRounding = 1.0 / 512;

// How far a score may be from the maximum of its map, relative to the score: see kdx/decision/answers.py.
constexpr double kScoreTolerance = 1.0 / 256;

// What holds of every answer that a method can give; where no declaration says more, distances are never negative.
struct AnswerLimits {
    double lowest_map = -kRounding, lowest_score = -kRounding;
    bool score_is_max = false;

    // KDX_REASON_NOT_FINITE, KDX_REASON_BELOW_RANGE, KDX_REASON_SCORE_MISMATCH, or KDX_REASON_NONE; of a raw map of so
    // many values and its score.
    std::uint32_t fault_of(const float *map, std::size_t size, float score) const;
};

// The limits of a method; pair_spec: its declaration as bundles keep it, in JSON; size: of the graph's map.
AnswerLimits answer_limits(const std::string &pair_spec, std::size_t size);

}  // namespace kdx::embed
