// The scores of the held-out good images of a calibration. The counterpart of
// kdx/decision/good_scores.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kdx::embed {

// The scores that a bundle keeps of a calibration on so many good images, ascending: all, or
// quantiles of very many.
class GoodScores {
public:
    GoodScores() = default;
    // Without scores, or with more of them than images, nothing is known, as of an older kdx.
    GoodScores(std::vector<double> kept, double images);

    bool is_empty() const { return kept_.empty(); }
    // Whether the scores rise, as a calibration writes them; what is below holds of such alone.
    bool is_ascending() const { return std::is_sorted(kept_.begin(), kept_.end()); }
    std::int64_t images() const { return is_empty() ? 0 : static_cast<std::int64_t>(images_); }

    // Returns the conformal p-value of a score: (1 + k) / (1 + n), where k of n images score at
    // least as high; of quantiles, the largest k that they allow. NaN without scores, and for a
    // score that is not finite.
    double p_value(double score) const;

    // Whether a score is the one at a rate, or lies between the two kept scores around that.
    bool has(double score, double false_reject_rate) const;
    // Whether so many images exceed a score; quantiles of very many images do not tell.
    bool has_above(double score, double expected) const;
    // Whether such a share of the images exceeds a score.
    bool has_share_above(double score, double share) const;

private:
    // The rank of a kept score among all, from 1.
    double rank(std::size_t index) const;

    std::vector<double> kept_;
    double images_ = 0;
};

}  // namespace kdx::embed
