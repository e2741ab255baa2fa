#include "selftest.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "golden.h"
#include "open_bundle.h"
#include "text.h"
#include "verify.h"

namespace kdx::embed {

namespace {

constexpr int kWarmUp = 5;

void add_comparison(const Comparison &compared, kdx_selftest_report &report) {
    report.images = compared.images, report.flips = compared.flips;
    report.score_difference = compared.score_difference, report.score_allowed = compared.score_allowed;
    report.map_difference = compared.map_difference, report.map_allowed = compared.map_allowed;
}

// Returns images of the camera's size for timing: the golden images, or one frame that they fill as
// tiles.
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

void time_calls(const Detector &detector, const Golden &golden, double percentile, int calls,
                kdx_selftest_report &report) {
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
            times.push_back(
                std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count());
    }
    report.median_ms = median_of(times);
    std::sort(times.begin(), times.end());
    // A latency that was measured, and that at least this percentage of the calls did not exceed.
    const auto rank = static_cast<std::size_t>(std::ceil(percentile / 100 * calls - 1e-9));
    report.latency_ms = times[std::max<std::size_t>(rank, 1) - 1];
    report.calls = calls;
}

// Makes the checks one after another. Throws Failure for the first that fails.
void run_checks(const Detector &detector, double budget_ms, double percentile, int calls, kdx_selftest_report &report) {
    const auto &bundle = detector.bundle();
    require_same_index(bundle);
    bundle.check_files();
    const auto runtime = detector.backend().runtime();
    const auto undecided = bundle.why_undecided(detector.precision(), runtime);
    if (!undecided.empty()) throw Failure(KDX_ERROR_BUNDLE, undecided);
    if (!bundle.threshold_of(detector.precision(), runtime).is_set())
        throw Failure(KDX_ERROR_BUNDLE, "not calibrated: every verdict is undecided; run kdx calibrate BUNDLE DATA");
    const auto golden = read_golden(bundle, detector.precision());
    const auto compared = compare(detector, golden);
    add_comparison(compared, report);
    if (!compared.is_passed())
        throw Failure(KDX_ERROR_BACKEND, "the golden images differ from the reference: " + compared.text());
    time_calls(detector, golden, percentile, calls, report);
    if (budget_ms > 0 && report.latency_ms > budget_ms)
        throw Failure(KDX_ERROR_BACKEND, "the latency exceeds the budget");
}

}  // namespace

std::optional<Failure> selftest(const Detector &detector, double budget_ms, double percentile, int calls,
                                kdx_selftest_report &report) {
    const bool is_valid = budget_ms >= 0 && std::isfinite(budget_ms) && percentile > 0 && percentile < 100 &&
                          calls > 0 && calls <= 1'000'000;
    if (!is_valid || calls < std::ceil(1 / (1 - percentile / 100) - 1e-9))
        throw Failure(KDX_ERROR_ARGUMENT, "invalid budget_ms, percentile or calls",
                      {"a budget of at least 0 ms, a percentile above 0 and below 100, and at least "
                       "1 / (1 - percentile / 100) calls",
                       "", ""});
    try {
        run_checks(detector, budget_ms, percentile, calls, report);
    } catch (const Failure &failure) {
        copy_text(failure.within(sizeof report.said - 1).c_str(), report.said, sizeof report.said);
        return failure;
    }
    report.passed = 1;
    return std::nullopt;
}

}  // namespace kdx::embed
