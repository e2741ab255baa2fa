#include "verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "error.h"

namespace kdx::embed {

namespace {

// The same as tolerances_of in kdx/verification/tolerances.py, which gives the reasons.
// tests/embed/test_library.py compares the two.
struct Tolerances {
    double score, map, tie;
};
Tolerances tolerances_of(const Bundle &bundle, Precision precision) {
    if (bundle.is_own_reference(precision) && !bundle.has_residual_additions) return {0.1, 0.2, 0.1};
    if (bundle.is_own_reference(precision)) return {0.25, 0.5, 0.15};
    switch (precision) {
        case Precision::fp16: return {6e-2, 1.2e-1, 2e-2};
        case Precision::bf16: return {0.25, 0.5, 0.10};
        case Precision::int8: return {0.35, 0.5, 0.15};
        case Precision::fp32: break;
    }
    return {1e-4, 1e-4, 1e-5};
}

constexpr double kSmallest = 1e-30;

// Keeps the larger value; NaN counts as the largest.
void raise_to(double &largest, double value) {
    if (std::isnan(value) || value > largest) largest = value;
}

class Comparer {
public:
    Comparer(const Detector &detector, const Golden &golden)
        : detector_(detector), golden_(golden), allowed_(tolerances_of(detector.bundle(), detector.precision())) {
        const auto size = map_size();
        std::vector<double> scores;
        for (std::size_t i = 0; i < golden.count; ++i) {
            const auto [least, most] = std::minmax_element(&golden.maps[i * size], &golden.maps[i * size] + size);
            ranges_.push_back(double{*most} - *least);
            scores.push_back(std::abs(golden.scores[i]));
        }
        median_score_ = median_of(scores), median_range_ = median_of(ranges_);
    }

    Comparison run(std::size_t batch) {
        const auto &bundle = detector_.bundle();
        const auto reference = bundle.is_own_reference(detector_.precision()) ? detector_.threshold()
                                                                              : bundle.threshold_of(Precision::fp32);
        // The golden images of a bundle for large frames are tiles. A level map and its threshold
        // apply to whole frames.
        const bool is_decided = !detector_.level() || !bundle.tiling.is_set();
        Comparison compared;
        compared.images = static_cast<int>(golden_.count);
        compared.flips = is_decided && reference.is_set() && detector_.threshold().is_set() ? 0 : -1;
        compared.score_allowed = allowed_.score, compared.map_allowed = allowed_.map;
        const auto size = golden_.images.size() / golden_.count;
        std::vector<std::uint8_t> images(batch * size);
        for (std::size_t start = 0; start < golden_.count; start += batch) {
            for (std::size_t i = 0; i < batch; ++i)
                std::copy_n(&golden_.images[(start + i) % golden_.count * size], size, &images[i * size]);
            detector_.backend().graph().run(images.data(), batch, [&](std::size_t i, float score, const float *map) {
                if (start + i < golden_.count) add_answer(start + i, score, map, reference, compared);
            });
        }
        return compared;
    }

private:
    std::size_t map_size() const {
        return static_cast<std::size_t>(detector_.bundle().map_height) * detector_.bundle().map_width;
    }

    // The score that is compared with the threshold.
    float decided(const float *map, float score) const {
        std::vector<float> normalised;
        return detector_.bundle().tiling.is_set() ? score
                                                  : detector_.post_process(map, score, detector_.roi(), normalised);
    }

    bool is_tie(double score, const Threshold &threshold) const {
        return std::abs(score - threshold.score) <= allowed_.tie * std::abs(threshold.score);
    }

    // Scores and maps are compared as the graph returns them, decisions after level map and region
    // of interest.
    void add_answer(std::size_t index, float score, const float *map, const Threshold &reference,
                    Comparison &compared) const {
        add_difference(index, score, map, compared);
        const auto expected = decided(&golden_.maps[index * map_size()], golden_.scores[index]);
        if (compared.flips < 0 || is_tie(expected, reference)) return;
        compared.flips += (decided(map, score) > detector_.threshold().score) != (expected > reference.score);
    }

    void add_difference(std::size_t index, float score, const float *map, Comparison &compared) const {
        const double expected = golden_.scores[index];
        const auto score_scale = std::max({std::abs(expected), median_score_, kSmallest});
        const auto map_scale = std::max({ranges_[index], median_range_, kSmallest});
        raise_to(compared.score_difference, std::abs(score - expected) / score_scale);
        const auto *reference = &golden_.maps[index * map_size()];
        for (std::size_t i = 0; i < map_size(); ++i)
            raise_to(compared.map_difference, std::abs(double{map[i]} - reference[i]) / map_scale);
    }

    const Detector &detector_;
    const Golden &golden_;
    const Tolerances allowed_;
    double median_score_ = 0, median_range_ = 0;
    std::vector<double> ranges_;
};

void require_passed(const Detector &detector, const Comparison &compared, std::size_t batch) {
    if (compared.is_passed()) return;
    char allowed[128];
    std::snprintf(allowed, sizeof allowed, "scores within %g, maps within %g, no verdict flipped on %d golden images",
                  compared.score_allowed, compared.map_allowed, compared.images);
    const auto path = detector.bundle().path.string();
    throw Failure(KDX_ERROR_BACKEND, "'" + path + "' does not decide here what was trained",
                  {allowed,
                   std::string(name_of(detector.backend().runtime())) + ", " + name_of(detector.precision()) +
                       ", batch " + std::to_string(batch) + ": " + compared.text(),
                   "do not deploy this bundle here; kdx verify " + path + " shows the certificate"});
}

}  // namespace

double median_of(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const auto middle = values.size() / 2;
    return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::string Comparison::text() const {
    char differences[128];
    std::snprintf(differences, sizeof differences, "scores off by %.2g, maps off by %.2g", score_difference,
                  map_difference);
    return std::string(differences) +
           (flips < 0 ? ", no verdicts compared" : ", " + std::to_string(flips) + " verdicts flipped");
}

Comparison compare(const Detector &detector, const Golden &golden, std::size_t batch) {
    return Comparer(detector, golden).run(batch);
}

void require_reference(const Detector &detector, const std::vector<std::size_t> &batches) {
    const auto golden = read_golden(detector.bundle(), detector.precision());
    for (const auto batch : batches) require_passed(detector, compare(detector, golden, batch), batch);
}

}  // namespace kdx::embed
