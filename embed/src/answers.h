// Checks what the graph returned for one image, before anything is concluded from it. The
// counterpart of kdx/decision/answers.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pair_spec.h"

namespace kdx::embed {

// How far rounding may move a cosine distance, whose range is 0 to 2, below 0.
constexpr double kRounding = 1.0 / 512;

// How far a score may differ from the maximum of its map, relative to the score.
// kdx/decision/answers.py gives the reason.
constexpr double kScoreTolerance = 1.0 / 256;

// Limits that hold for every answer of a method. The defaults hold for any method: distances are
// never negative.
struct AnswerLimits {
    double lowest_map = -kRounding, lowest_score = -kRounding;
    bool score_is_max = false;

    // Checks a raw map of `size` values and its score. Returns KDX_REASON_NOT_FINITE,
    // KDX_REASON_BELOW_RANGE, KDX_REASON_SCORE_MISMATCH, or KDX_REASON_NONE.
    std::uint32_t fault_of(const float *map, std::size_t size, float score) const;
};

// Derives the limits from the declaration of a method. size: number of values in the graph's map.
AnswerLimits answer_limits(const PairSpec &spec, std::size_t size);

}  // namespace kdx::embed
