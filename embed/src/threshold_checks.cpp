#include "threshold_checks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace kdx::embed {

using nlohmann::json;

namespace {

// The scores that a bundle keeps of a calibration on so many good images, ascending: all, or
// quantiles of very many.
struct HeldOut {
    std::vector<double> kept;
    double images;

    // The rank of a kept score among all, from 1.
    double rank(std::size_t index) const {
        if (kept.size() < 2) return 1;
        const auto step = (images - 1) / static_cast<double>(kept.size() - 1);
        return 1 + std::nearbyint(static_cast<double>(index) * step);  // to the even of two, as NumPy
    }

    // Whether a score is the one at a rate, or lies between the two kept scores around that.
    bool has(double score, double false_reject_rate) const {
        const auto wanted = std::ceil((images + 1) * (1 - false_reject_rate) - 1e-9);
        std::size_t low = 0;
        while (low + 1 < kept.size() && rank(low + 1) <= wanted) ++low;
        const auto high = low + 1 < kept.size() && rank(low) < wanted ? low + 1 : low;
        return kept[low] <= score && score <= kept[high];
    }

    // Whether so many images exceed a score; quantiles of very many images do not tell.
    bool has_above(double score, double expected) const {
        const auto above = std::count_if(kept.begin(), kept.end(), [&](double each) { return each > score; });
        return static_cast<double>(kept.size()) != images || static_cast<double>(above) == expected;
    }

    // Whether such a share of the images exceeds a score.
    bool has_share_above(double score, double share) const { return has_above(score, std::nearbyint(share * images)); }
};

bool has_value(const json &record, const char *name) {
    const auto found = record.find(name);
    return found != record.end() && !found->is_null();
}

}  // namespace

bool fits_its_scores(const json &threshold) {
    if (!has_value(threshold, "scores")) return true;  // an older kdx kept none
    const HeldOut held{threshold.at("scores").get<std::vector<double>>(), threshold.at("images").get<double>()};
    if (held.kept.empty() || static_cast<double>(held.kept.size()) > held.images) return true;
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

}  // namespace kdx::embed
