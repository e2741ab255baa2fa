// The check at the start of a shift, as kdx/selftest.py makes it: files, golden images, latency.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "detector.h"
#include "error.h"
#include "golden.h"

namespace kdx::embed {

namespace {

// What kd_export/verify.py allows each precision; a test holds the two together.
struct Tolerances {
    double score, map, tie;
};
Tolerances tolerances_of(const std::string &precision) {
    if (precision == "fp16") return {6e-2, 1.2e-1, 2e-2};
    if (precision == "bf16") return {0.25, 0.5, 0.10};
    if (precision == "int8") return {0.35, 0.5, 0.15};
    return {1e-4, 1e-4, 1e-5};
}

constexpr double kSmallest = 1e-30;
constexpr int kWarmUp = 5;

double median_of(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const auto middle = values.size() / 2;
    return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void say(kdx_selftest_report &report, const std::string &what) {
    const auto length = std::min(what.size(), sizeof report.said - 1);
    std::memcpy(report.said, what.data(), length);
    report.said[length] = '\0';
}

// Images of the camera's size to time calls with: the golden images, or one frame paved with them.
std::vector<std::uint8_t> camera_images(const Bundle &bundle, const Golden &golden) {
    if (!bundle.tiling.is_set()) return golden.images;
    const auto pixel = static_cast<std::size_t>(bundle.channels);
    const auto tile = pixel * bundle.height * bundle.width;
    std::vector<std::uint8_t> frame(pixel * bundle.camera_height * bundle.camera_width);
    const int across = (bundle.camera_width + bundle.width - 1) / bundle.width;
    for (int y = 0; y < bundle.camera_height; ++y)
        for (int x = 0; x < bundle.camera_width; ++x) {
            const auto number = static_cast<std::size_t>(y / bundle.height * across + x / bundle.width) % golden.count;
            const auto source = (static_cast<std::size_t>(y % bundle.height) * bundle.width + x % bundle.width) * pixel;
            std::copy_n(&golden.images[number * tile + source], pixel,
                        &frame[(static_cast<std::size_t>(y) * bundle.camera_width + x) * pixel]);
        }
    return frame;
}

class Comparison {
public:
    Comparison(const Detector &detector, const Golden &golden) : detector_(detector), golden_(golden) {
        const auto size = map_size();
        std::vector<double> scores, ranges;
        for (std::size_t i = 0; i < golden.count; ++i) {
            const auto [least, most] = std::minmax_element(&golden.maps[i * size], &golden.maps[i * size] + size);
            ranges.push_back(double{*most} - *least);
            scores.push_back(std::abs(golden.scores[i]));
        }
        usual_score_ = median_of(scores), usual_range_ = median_of(ranges);
        ranges_ = std::move(ranges);
    }

    void run(kdx_selftest_report &report) {
        std::vector<float> map(map_size());
        const auto allowed = tolerances_of(detector_.precision());
        const auto reference = detector_.bundle().threshold_of("fp32");
        // Golden images of a bundle for large frames are tiles: a level map is of frames, and its thresholds no tile's.
        const bool is_decided = !detector_.level() || !detector_.bundle().tiling.is_set();
        report.flips = is_decided && reference.is_set() && detector_.threshold().is_set() ? 0 : -1;
        report.score_allowed = allowed.score, report.map_allowed = allowed.map;
        for (std::size_t i = 0; i < golden_.count; ++i) {
            float score = 0;
            const auto *image = &golden_.images[i * (golden_.images.size() / golden_.count)];
            detector_.backend().graph().run(image, 1, [&](std::size_t, float found, const float *values) {
                score = found;
                std::copy_n(values, map.size(), map.begin());
            });
            // Scores and maps as the graph gives them; decisions behind it: level map and region.
            compare(i, score, map, report);
            const auto expected = decided(&golden_.maps[i * map.size()], golden_.scores[i]);
            if (report.flips < 0 || is_tie(expected, reference, allowed.tie)) continue;
            report.flips += (decided(map.data(), score) > detector_.threshold().score) != (expected > reference.score);
        }
        report.images = static_cast<std::int32_t>(golden_.count);
    }

private:
    std::size_t map_size() const {
        return static_cast<std::size_t>(detector_.bundle().map_height) * detector_.bundle().map_width;
    }

    float decided(const float *map, float score) const {
        if (detector_.bundle().tiling.is_set()) return score;
        std::vector<float> normalised;
        if (detector_.level()) {
            score = detector_.level()->apply(map, score, normalised);
            map = normalised.data();
        }
        return detector_.roi() ? detector_.roi()->score_of(map, score) : score;
    }

    static bool is_tie(double score, const Threshold &threshold, double tie) {
        return std::abs(score - threshold.score) <= tie * std::abs(threshold.score);
    }

    void compare(std::size_t index, float score, const std::vector<float> &map, kdx_selftest_report &report) const {
        const double expected = golden_.scores[index];
        const auto score_scale = std::max({std::abs(expected), usual_score_, kSmallest});
        const auto map_scale = std::max({ranges_[index], usual_range_, kSmallest});
        note(report.score_difference, std::abs(score - expected) / score_scale);
        const auto *reference = &golden_.maps[index * map.size()];
        for (std::size_t i = 0; i < map.size(); ++i)
            note(report.map_difference, std::abs(double{map[i]} - reference[i]) / map_scale);
    }

    // The largest; what is not finite stays.
    static void note(double &largest, double found) {
        if (!(found <= largest)) largest = found;
    }

    const Detector &detector_;
    const Golden &golden_;
    double usual_score_ = 0, usual_range_ = 0;
    std::vector<double> ranges_;
};

void time_calls(const Detector &detector, const Golden &golden, double percentile, int calls, kdx_selftest_report &report) {
    const auto &bundle = detector.bundle();
    const auto images = camera_images(bundle, golden);
    const auto size = static_cast<std::size_t>(bundle.camera_height) * bundle.camera_width * bundle.channels;
    const auto format = bundle.channels == 1 ? KDX_MONO8 : bundle.bgr ? KDX_BGR8 : KDX_RGB8;
    std::vector<float> map(static_cast<std::size_t>(bundle.camera_map_height) * bundle.camera_map_width);
    std::vector<double> times;
    for (int call = 0; call < kWarmUp + calls; ++call) {
        const auto *data = &images[static_cast<std::size_t>(call) % (images.size() / size) * size];
        const kdx_image image{data, bundle.camera_height, bundle.camera_width, format, 0};
        const kdx_map target{map.data(), 0};
        kdx_verdict verdict{};
        const auto started = std::chrono::steady_clock::now();
        detector.infer(1, &image, &verdict, sizeof verdict, &target, detector.roi());
        if (call >= kWarmUp)
            times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count());
    }
    report.median_ms = median_of(times);
    std::sort(times.begin(), times.end());
    // A time that was measured, and that so many percent of the calls really kept.
    const auto kept = static_cast<std::size_t>(std::ceil(percentile / 100 * calls - 1e-9));
    report.latency_ms = times[std::max<std::size_t>(kept, 1) - 1];
    report.calls = calls;
}

}  // namespace

void selftest(const Detector &detector, double budget_ms, double percentile, int calls, kdx_selftest_report &report) {
    const bool is_possible = budget_ms >= 0 && std::isfinite(budget_ms) && percentile > 0 && percentile < 100 &&
                             calls > 0 && calls <= 1'000'000;
    if (!is_possible || calls < std::ceil(1 / (1 - percentile / 100) - 1e-9))
        throw Failure(KDX_ERROR_ARGUMENT,
                      "a budget of 0 or more milliseconds, a percentile above 0 and below 100, and enough calls for it");
    try {
        detector.bundle().check_files();
        const auto undecided = detector.bundle().why_undecided(detector.precision(), detector.backend().name());
        if (!undecided.empty()) return say(report, undecided);
        const auto golden = read_golden(detector.bundle());
        Comparison(detector, golden).run(report);
        const bool is_near = report.score_difference <= report.score_allowed && report.map_difference <= report.map_allowed;
        if (!is_near || report.flips > 0)
            return say(report, "the golden images do not score as they did when the bundle was exported");
        time_calls(detector, golden, percentile, calls, report);
        if (budget_ms > 0 && report.latency_ms > budget_ms) return say(report, "the latency is over the budget");
        report.passed = 1;
    } catch (const Failure &failure) {
        say(report, failure.what());
    }
}

}  // namespace kdx::embed
