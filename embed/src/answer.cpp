#include "answer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kdx/kdx.h"

namespace kdx::embed {

namespace {

using nlohmann::json;

struct Range {
    double low, high;
};

Range times(Range one, Range other) {
    const auto [low, high] = std::minmax({one.low * other.low, one.low * other.high, one.high * other.low, one.high * other.high});
    return {low, high};
}

// Throws json::exception for what is not known.
Range range_of_tap(const json &tap) {
    const auto distance = tap.at("distance").get<std::string>();
    if (distance == "half_squared_l2") return {0, 2 + kRounding};
    if (distance == "cosine") return {-kRounding, 2 + kRounding};
    throw json::other_error::create(500, "no known distance", nullptr);
}

Range range_of_map(const json &map) {
    const auto &taps = map.at("taps");
    const bool is_product = map.at("combine").get<std::string>() == "product";
    auto found = is_product ? Range{1, 1} : Range{0, 0};
    for (const auto &tap : taps) {
        const auto distance = range_of_tap(tap);
        const auto weight = tap.value("weight", 1.0);
        const auto weighted = times(distance, {weight, weight});
        found = is_product ? times(found, distance) : Range{found.low + weighted.low, found.high + weighted.high};
    }
    return found;
}

}  // namespace

std::uint32_t AnswerLimits::fault_of(const float *map, std::size_t size, float score) const {
    bool is_finite = std::isfinite(score), is_above = true;
    // The maximum is the score where no value is above the score's range, and one at least is in it.
    const double tolerance = kScoreTolerance * std::fabs(double{score}) + double{std::numeric_limits<float>::min()};
    const double least = score - tolerance, most = score + tolerance;
    bool is_reached = false, is_exceeded = false;
    // No branches, so that compilers use vectors. A comparison with NaN is false.
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

AnswerLimits answer_limits(const std::string &pair_spec, std::size_t size) {
    try {
        const auto spec = json::parse(pair_spec);
        const auto &maps = spec.at("maps");
        auto first = range_of_map(maps.at(0));
        const auto second = range_of_map(maps.at(maps.size() - 1));
        const auto join = spec.value("join", std::string("single"));
        // (max M - min M) * M / |M|: the extent is at most 2|M|, and M at most |M|.
        if (join == "confirmed") first = times(first, {2 * std::min(second.low, 0.0), second.high - second.low});
        const bool is_max = spec.at("score").get<std::string>() == "max";
        const auto cells = is_max ? 1.0 : static_cast<double>(size);
        const auto score = join == "score_second" ? second : join == "score_both" ? times({cells * first.low, cells * first.high}, second) : first;
        // The other two joins score a map that is not returned.
        return {first.low, cells * score.low, is_max && (join == "single" || join == "confirmed" || join == "score_first")};
    } catch (const json::exception &) {
        return {};
    }
}

}  // namespace kdx::embed
