#include "threshold_checks.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "good_scores.h"

namespace kdx::embed {

using nlohmann::json;

namespace {

bool has_value(const json &record, const char *name) {
    const auto found = record.find(name);
    return found != record.end() && !found->is_null();
}

bool are_close(double left, double right) {
    return std::abs(left - right) <= 1e-9 * std::max(std::abs(left), std::abs(right));
}

}  // namespace

bool fits_its_scores(const json &threshold) {
    if (!threshold.contains("scores")) return true;  // an older kdx kept none
    const auto scores = threshold.at("scores").get<std::vector<double>>();
    if (scores.empty()) return true;
    const GoodScores held(scores, threshold.at("images").get<double>());
    if (held.is_empty()) return false;  // more scores than images
    if (!held.is_ascending()) return false;
    const auto score = threshold.at("score").get<double>(), rate = threshold.at("false_reject_rate").get<double>();
    const bool is_by_hand = has_value(threshold, "by_hand");
    if (is_by_hand ? !held.has_share_above(score, rate)
        : has_value(threshold, "defects")
            ? !held.has_above(score, threshold.at("defects").at("false_rejects").get<double>())
            : !held.has(score, rate))
        return false;
    if (!has_value(threshold, "review")) return true;
    const auto &review = threshold.at("review");
    const auto low = review.at("score").get<double>(), share = review.at("false_reject_rate").get<double>();
    return is_by_hand ? held.has_share_above(low, share) : held.has(low, share);
}

bool is_as_given(const json &threshold, bool is_scaled) {
    if (!has_value(threshold, "by_hand")) return true;
    const auto &given = threshold.at("by_hand");
    const auto found = threshold.at("score").get<double>(), expected = given.at("score").get<double>();
    const bool has_band = has_value(threshold, "review");
    if (has_band != has_value(given, "review_score")) return false;
    if (!is_scaled && found != expected) return false;
    if (is_scaled && has_value(given, "factor") && !are_close(found, expected * given["factor"].get<double>()))
        return false;
    if (!has_band) return true;
    const auto low = threshold.at("review").at("score").get<double>();
    const auto low_given = given.at("review_score").get<double>();
    return is_scaled ? are_close(found * low_given, low * expected) : low == low_given;
}

}  // namespace kdx::embed
