#include "good_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace kdx::embed {

GoodScores::GoodScores(std::vector<double> kept, double images) : kept_(std::move(kept)), images_(images) {
    if (!(static_cast<double>(kept_.size()) <= images_)) kept_.clear();
}

double GoodScores::rank(std::size_t index) const {
    if (kept_.size() < 2) return 1;
    const auto step = (images_ - 1) / static_cast<double>(kept_.size() - 1);
    return 1 + std::nearbyint(static_cast<double>(index) * step);  // to the even of two, as NumPy
}

double GoodScores::p_value(double score) const {
    if (is_empty() || !std::isfinite(score)) return std::numeric_limits<double>::quiet_NaN();
    const auto below = std::lower_bound(kept_.begin(), kept_.end(), score) - kept_.begin();
    const auto lower = below ? rank(static_cast<std::size_t>(below) - 1) : 0;
    return (1 + images_ - lower) / (1 + images_);
}

bool GoodScores::has(double score, double false_reject_rate) const {
    const auto wanted = std::ceil((images_ + 1) * (1 - false_reject_rate) - 1e-9);
    std::size_t low = 0;
    while (low + 1 < kept_.size() && rank(low + 1) <= wanted) ++low;
    const auto high = low + 1 < kept_.size() && rank(low) < wanted ? low + 1 : low;
    return kept_[low] <= score && score <= kept_[high];
}

bool GoodScores::has_above(double score, double expected) const {
    const auto above = std::count_if(kept_.begin(), kept_.end(), [&](double each) { return each > score; });
    return static_cast<double>(kept_.size()) != images_ || static_cast<double>(above) == expected;
}

bool GoodScores::has_share_above(double score, double share) const {
    return has_above(score, std::nearbyint(share * images_));
}

}  // namespace kdx::embed
