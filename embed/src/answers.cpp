#include "answers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kdx/kdx.h"

namespace kdx::embed {

namespace {

struct Range {
    double low, high;
};

Range times(Range one, Range other) {
    const auto [low, high] =
        std::minmax({one.low * other.low, one.low * other.high, one.high * other.low, one.high * other.high});
    return {low, high};
}

Range range_of(Distance distance) {
    const double lowest = distance == Distance::cosine ? -kRounding : 0;
    return {lowest, 2 + kRounding};
}

Range range_of(const MapSpec &map) {
    const bool is_product = map.combine == Combine::product;
    auto combined = is_product ? Range{1, 1} : Range{0, 0};
    for (const auto &tap : map.taps) {
        const auto distance = range_of(tap.distance);
        if (is_product) {
            combined = times(combined, distance);
        } else {
            const auto weighted = times(distance, {tap.weight, tap.weight});
            combined = {combined.low + weighted.low, combined.high + weighted.high};
        }
    }
    return combined;
}

}  // namespace

std::uint32_t AnswerLimits::fault_of(const float *map, std::size_t size, float score) const {
    bool is_finite = std::isfinite(score), is_above = true;
    // The score is the maximum if no value is above the score's tolerance band and at least one is
    // in it.
    const double tolerance = kScoreTolerance * std::fabs(double{score}) + double{std::numeric_limits<float>::min()};
    const double least = score - tolerance, most = score + tolerance;
    bool is_reached = false, is_exceeded = false;
    // The loop has no branches, so that compilers vectorise it. A comparison with NaN is false.
    for (std::size_t i = 0; i < size; ++i) {
        is_finite &= std::fabs(map[i]) <= std::numeric_limits<float>::max();
        is_above &= double{map[i]} >= lowest_map;
        is_reached |= double{map[i]} >= least;
        is_exceeded |= double{map[i]} > most;
    }
    if (!is_finite) return KDX_REASON_NOT_FINITE;
    if (!is_above || double{score} < lowest_score) return KDX_REASON_BELOW_RANGE;
    return score_is_max && (is_exceeded || !is_reached) ? KDX_REASON_SCORE_MISMATCH : KDX_REASON_NONE;
}

AnswerLimits answer_limits(const PairSpec &spec, std::size_t size) {
    if (spec.maps.empty() || !spec.join || !spec.score) return {};
    const auto join = *spec.join;
    auto first = range_of(spec.maps.front());
    const auto second = range_of(spec.maps.back());
    // (max M - min M) * M / |M|: the difference is at most 2|M|, and M at most |M|.
    if (join == Join::confirmed) first = times(first, {2 * std::min(second.low, 0.0), second.high - second.low});
    const bool is_max = spec.score == ScoreRule::max;
    const auto cells = is_max ? 1.0 : static_cast<double>(size);
    const auto score = join == Join::score_second ? second
                       : join == Join::score_both ? times({cells * first.low, cells * first.high}, second)
                                                  : first;
    // The other two joins score a map that is not returned.
    const bool is_of_returned_map = join == Join::single || join == Join::confirmed || join == Join::score_first;
    return {first.low, cells * score.low, is_max && is_of_returned_map};
}

}  // namespace kdx::embed
