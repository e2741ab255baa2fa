// kdx_failed_calls [BACKEND]: the state of the caller's memory after a call that failed. Nothing in
// it lets a part pass.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <kdx/kdx.hpp>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "pictures.h"
#include "test_bundle.h"

namespace {

// The verdict of the previous part, as a line's program may keep it.
kdx_verdict previous_verdict() {
    kdx_verdict verdict;
    KDX_INIT(verdict);
    verdict.decision = KDX_GOOD;
    verdict.reason = KDX_REASON_FRAME;
    verdict.score = 0.25f, verdict.threshold = 0.5, verdict.margin = -0.5;
    verdict.relative_score = 0.5, verdict.p_value = 0.9, verdict.held_out_images = 9;
    return verdict;
}

// Whether nothing of the previous verdict is left.
bool is_reset(const kdx_verdict &verdict) {
    return verdict.decision == KDX_UNDECIDED && verdict.frame_faults == 0 && verdict.reason == KDX_REASON_NONE &&
           std::isnan(verdict.score) && std::isnan(verdict.threshold) && std::isnan(verdict.margin) &&
           std::isnan(verdict.relative_score) && std::isnan(verdict.p_value) && verdict.held_out_images == 0;
}

bool is_blank(const std::vector<float> &map) {
    return std::all_of(map.begin(), map.end(), [](float value) { return std::isnan(value); });
}

std::size_t map_size(const kdx_description &takes) {
    return static_cast<std::size_t>(takes.map_height) * takes.map_width;
}

void a_failed_call_leaves_nothing_good(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    const auto pixels = frame_of(takes, 0);
    const std::vector<std::uint8_t> ones(static_cast<std::size_t>(takes.height) * takes.width, 1);
    const auto image = image_of(takes, pixels);
    auto wide = image, empty = image;
    wide.width += 1;
    empty.data = nullptr;
    const kdx_image mask{ones.data(), takes.height, takes.width, KDX_MONO8, 0};  // invalid values
    std::vector<float> values(map_size(takes), 1.0f);
    const kdx_map map{values.data(), 0}, narrow{values.data(), 4};
    kdx_detector *const none = nullptr, *const here = detector.handle();

    // Checks the status of a call, and that it resets the verdict, and the map if the library knows
    // where its rows are.
    const auto fails = [&](kdx_status expected, bool is_map_known, auto &&call) {
        auto verdict = previous_verdict();
        std::fill(values.begin(), values.end(), 1.0f);
        CHECK(call(&verdict) == expected);
        CHECK(is_reset(verdict));
        CHECK(is_blank(values) == is_map_known);
    };
    fails(KDX_ERROR_IMAGE, true, [&](auto *verdict) { return kdx_infer(here, &wide, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, true, [&](auto *verdict) { return kdx_infer(here, &empty, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, true, [&](auto *verdict) { return kdx_infer(here, nullptr, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, false, [&](auto *verdict) { return kdx_infer(none, &image, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, false, [&](auto *verdict) { return kdx_infer(here, &image, verdict, &narrow); });
    fails(KDX_ERROR_ARGUMENT, true, [&](auto *verdict) { return kdx_infer_roi(here, nullptr, &mask, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, true, [&](auto *verdict) { return kdx_infer_roi(here, &image, &mask, verdict, &map); });
    fails(KDX_ERROR_IMAGE, true, [&](auto *verdict) { return kdx_infer_roi(here, &image, &wide, verdict, &map); });
    CHECK(std::strstr(kdx_last_error(), "the region of interest cannot be used"));
    fails(KDX_ERROR_ARGUMENT, false, [&](auto *verdict) { return kdx_infer_roi(none, &image, &mask, verdict, &map); });
    fails(KDX_ERROR_ARGUMENT, false,
          [&](auto *verdict) { return kdx_infer_roi(here, &image, &mask, verdict, &narrow); });
    fails(KDX_ERROR_ARGUMENT, true, [&](auto *verdict) { return kdx_infer_batch(here, 1, nullptr, verdict, &map); });
    CHECK(kdx_infer(here, &image, nullptr, &map) == KDX_ERROR_ARGUMENT);
    CHECK(is_blank(values));
    // The memory was reused, and its struct_size was overwritten.
    for (const auto size : {0u, 3u, 1u << 30}) {
        auto verdict = previous_verdict();
        verdict.struct_size = size;
        // Whether there is memory for later fields is then not known, and they stay as they are.
        verdict.reason = KDX_REASON_NONE;
        verdict.relative_score = verdict.p_value = std::nan(""), verdict.held_out_images = 0;
        CHECK(kdx_infer(here, &image, &verdict, nullptr) == KDX_ERROR_ARGUMENT);
        CHECK(is_reset(verdict));
    }
    // The next call succeeds.
    auto verdict = previous_verdict();
    CHECK(kdx_infer(here, &image, &verdict, &map) == KDX_OK);
    CHECK(std::isfinite(verdict.score) && std::isfinite(values.front()));
    // A map of the C++ interface keeps no values of an earlier image either.
    std::vector<float> kept;
    detector(image, kept);
    try {
        detector(wide, kept);
        CHECK(!"it was refused");
    } catch (const kdx::Error &error) {
        CHECK(error.status() == KDX_ERROR_IMAGE);
    }
    CHECK(is_blank(kept));
}

void a_failed_batch_leaves_nothing_good(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    const auto pixels = frame_of(takes, 0);
    std::vector<kdx_image> images(40, image_of(takes, pixels));
    std::vector<kdx_verdict> verdicts(images.size());
    std::vector<std::vector<float>> values(images.size(), std::vector<float>(map_size(takes), 1.0f));
    std::vector<kdx_map> maps;
    for (auto &each : values) maps.push_back({each.data(), 0});
    const auto fails = [&](kdx_status expected, kdx_detector *handle, const kdx_image *given, const kdx_map *targets) {
        for (auto &each : verdicts) each = previous_verdict();
        CHECK(kdx_infer_batch(handle, images.size(), given, verdicts.data(), targets) == expected);
        CHECK(std::all_of(verdicts.begin(), verdicts.end(), is_reset));
    };
    fails(KDX_ERROR_ARGUMENT, nullptr, images.data(), nullptr);
    fails(KDX_ERROR_ARGUMENT, detector.handle(), nullptr, maps.data());
    CHECK(std::all_of(values.begin(), values.end(), is_blank));
    images.back().format = 77;  // all other images are valid
    fails(KDX_ERROR_IMAGE, detector.handle(), images.data(), maps.data());
    images.back() = images.front();
    // A map with an invalid row_stride is not written. All other maps are.
    for (auto &each : values) std::fill(each.begin(), each.end(), 1.0f);
    maps[20].row_stride = 4;
    fails(KDX_ERROR_ARGUMENT, detector.handle(), images.data(), maps.data());
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(is_blank(values[i]) == (i != 20));
    maps[20].row_stride = 0;
    // Verdicts of a later version are longer. All are reset, and fields that only that version
    // knows stay as they are.
    struct Longer {
        kdx_verdict known;
        double later;
    };
    std::vector<Longer> longer(3, {previous_verdict(), 7.0});
    for (auto &each : longer) each.known.struct_size = sizeof(Longer);
    CHECK(kdx_infer_batch(nullptr, longer.size(), images.data(), &longer.front().known, nullptr) == KDX_ERROR_ARGUMENT);
    for (const auto &each : longer) CHECK(is_reset(each.known) && each.later == 7.0);
    // Verdicts of the version before the relative score are shorter. All are reset, and the memory
    // after the last one stays as it is.
    constexpr auto shorter = offsetof(kdx_verdict, relative_score);
    std::vector<char> packed(3 * shorter + 8, 7);
    auto known = previous_verdict();
    known.struct_size = shorter;
    for (std::size_t i = 0; i < 3; ++i) std::memcpy(packed.data() + i * shorter, &known, shorter);
    CHECK(kdx_infer_batch(nullptr, 3, images.data(), reinterpret_cast<kdx_verdict *>(packed.data()), nullptr) ==
          KDX_ERROR_ARGUMENT);
    for (std::size_t i = 0; i < 3; ++i) {
        kdx_verdict found{};
        std::memcpy(&found, packed.data() + i * shorter, shorter);
        CHECK(found.decision == KDX_UNDECIDED && std::isnan(found.margin) && found.reason == KDX_REASON_NONE);
    }
    CHECK(std::all_of(packed.end() - 8, packed.end(), [](char each) { return each == 7; }));
    // The same with the first version's verdicts, of which the first was not initialised: no memory
    // after the array is read.
    constexpr auto first_version = offsetof(kdx_verdict, reason);
    const std::unique_ptr<char[]> oldest(new char[2 * first_version]());
    known.struct_size = first_version;
    std::memcpy(oldest.get() + first_version, &known, first_version);
    const auto reset_oldest = [&](std::size_t count) {
        return kdx_infer_batch(nullptr, count, images.data(), reinterpret_cast<kdx_verdict *>(oldest.get()), nullptr);
    };
    CHECK(reset_oldest(2) == KDX_ERROR_ARGUMENT);
    kdx_verdict last{};
    std::memcpy(&last, oldest.get() + first_version, first_version);
    CHECK(last.decision == KDX_UNDECIDED && std::isnan(last.margin));
    // An array of no verdicts has no first one.
    const std::unique_ptr<char[]> nothing(new char[0]);
    CHECK(kdx_infer_batch(detector.handle(), 0, images.data(), reinterpret_cast<kdx_verdict *>(nothing.get()),
                          nullptr) == KDX_OK);
    // The size of the first verdict was overwritten. The second one gives the distance between
    // verdicts.
    std::vector<kdx_verdict> clobbered(5, previous_verdict());
    clobbered.front().struct_size = 0;
    CHECK(kdx_infer_batch(detector.handle(), clobbered.size(), images.data(), clobbered.data(), nullptr) ==
          KDX_ERROR_ARGUMENT);
    CHECK(std::all_of(clobbered.begin(), clobbered.end(), is_reset));
    for (std::size_t i = 1; i < clobbered.size(); ++i) CHECK(clobbered[i].struct_size == sizeof(kdx_verdict));
    // A number of images above the maximum says nothing about the length of the array: no memory
    // after the first verdict is touched, even if it looks like a verdict.
    for (const auto count : {(std::size_t{1} << 20) + 1, static_cast<std::size_t>(-1)}) {
        std::vector<kdx_verdict> beyond(2, previous_verdict());
        CHECK(kdx_infer_batch(detector.handle(), count, images.data(), beyond.data(), nullptr) == KDX_ERROR_ARGUMENT);
        CHECK(is_reset(beyond[0]) && beyond[1].decision == KDX_GOOD);
    }
}

void other_answers_say_nothing_after_a_failure(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    std::vector<float> values(map_size(takes), 1.0f);
    kdx_map map{values.data(), 0};
    kdx_region region{};
    std::size_t count = 5;
    const auto refused = [&](const kdx_detector *handle, const kdx_map *given, double threshold) {
        count = 5;
        return kdx_regions(handle, given, threshold, 0, 0, 1, &region, &count) == KDX_ERROR_ARGUMENT && count == 0;
    };
    CHECK(refused(nullptr, &map, 0.5));
    CHECK(refused(detector.handle(), nullptr, 0.5));
    CHECK(refused(detector.handle(), &map, std::nan("")));
    CHECK(std::strstr(kdx_last_error(), "regions need a threshold"));
    // The map of a failed call is an error, which is different from no regions.
    values.back() = std::nanf("");
    CHECK(refused(detector.handle(), &map, 0.5));
    values.back() = HUGE_VALF;
    CHECK(refused(detector.handle(), &map, 0.5));
    // A distance below 0 is not a valid answer.
    values.back() = -1.0f;
    CHECK(refused(detector.handle(), &map, 0.5));

    auto report = detector.selftest(0, 90, 10);
    CHECK(report.passed == 1);
    CHECK(kdx_selftest(detector.handle(), -1, 95, 40, &report) == KDX_ERROR_ARGUMENT);
    CHECK(report.passed == 0 && report.images == 0 && report.flips == -1 && std::strlen(report.said) > 0);
    report.passed = 1;
    CHECK(kdx_selftest(nullptr, 0, 95, 40, &report) == KDX_ERROR_ARGUMENT);
    CHECK(report.passed == 0 && std::string(report.said) == kdx_last_error());

    auto description = takes;
    CHECK(kdx_describe(nullptr, &description) == KDX_ERROR_ARGUMENT);
    CHECK(description.height == 0 && description.max_batch == 0 && std::isnan(description.threshold) &&
          std::isnan(description.pixel_threshold));
    const kdx::Verdict nothing;
    CHECK(!nothing.is_good() && std::isnan(nothing.score) && std::isnan(nothing.threshold) &&
          std::isnan(nothing.margin) && std::isnan(nothing.relative_score) && std::isnan(nothing.p_value));
}

// The pixels of the previous part would be judged again by a caller that ignores the status.
void a_failed_decoding_leaves_a_black_frame(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    const std::vector<std::uint8_t> data(static_cast<std::size_t>(takes.height) * takes.width, 90);
    std::vector<std::uint8_t> pixels(data.size() * takes.channels);
    kdx_buffer right;
    KDX_INIT(right);
    right.height = takes.height, right.width = takes.width, right.pixel_format = "Mono8";
    right.data = data.data(), right.size = data.size();
    const auto fails = [&](kdx_status expected, auto &&change) {
        auto buffer = right;
        change(buffer);
        auto image = image_of(takes, data);
        pixels.assign(pixels.size(), 90);
        CHECK(kdx_decode(detector.handle(), &buffer, pixels.data(), pixels.size(), &image) == expected);
        CHECK(!image.data && image.height == 0 && image.width == 0);
        CHECK(std::all_of(pixels.begin(), pixels.end(), [](int value) { return value == 0; }));
        auto verdict = previous_verdict();
        CHECK(kdx_infer(detector.handle(), &image, &verdict, nullptr) == KDX_ERROR_ARGUMENT && is_reset(verdict));
        image = image_of(takes, pixels);
        CHECK(kdx_infer(detector.handle(), &image, &verdict, nullptr) == KDX_OK);
        CHECK(verdict.decision != KDX_GOOD && verdict.frame_faults & KDX_FRAME_BLACK);
    };
    fails(KDX_ERROR_IMAGE, [](kdx_buffer &buffer) { buffer.pixel_format = "mono8"; });
    fails(KDX_ERROR_IMAGE, [](kdx_buffer &buffer) { buffer.size -= 1; });
    fails(KDX_ERROR_IMAGE, [](kdx_buffer &buffer) { buffer.height += 1; });
    fails(KDX_ERROR_ARGUMENT, [](kdx_buffer &buffer) { buffer.struct_size = 4; });
    fails(KDX_ERROR_ARGUMENT, [](kdx_buffer &buffer) { buffer.data = nullptr; });
    fails(KDX_ERROR_ARGUMENT, [](kdx_buffer &buffer) { buffer.pixel_format = nullptr; });

    auto image = image_of(takes, data);
    pixels.assign(pixels.size(), 90);
    CHECK(kdx_decode(detector.handle(), &right, pixels.data(), pixels.size() - 1, &image) == KDX_ERROR_ARGUMENT);
    CHECK(!image.data && pixels.front() == 90);  // there is no room for a frame
    CHECK(kdx_decode(nullptr, &right, pixels.data(), pixels.size(), &image) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_decode(detector.handle(), nullptr, pixels.data(), pixels.size(), &image) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_decode(detector.handle(), &right, nullptr, pixels.size(), &image) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_decode(detector.handle(), &right, pixels.data(), pixels.size(), nullptr) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_decode(detector.handle(), &right, pixels.data(), pixels.size(), &image) == KDX_OK);
    CHECK(image.data == pixels.data() && image.format == takes.format && pixels.front() == 90);
}

}  // namespace

int main(int argc, char **argv) try {
    kdx::Options options;
    options.backend = argc > 1 ? argv[1] : "";
    options.precision = "fp32";
    options.threads = options.backend == "tensorrt" ? 0 : 1;
    kdx::Detector detector(test_bundle(), options);
    a_failed_call_leaves_nothing_good(detector);
    a_failed_batch_leaves_nothing_good(detector);
    other_answers_say_nothing_after_a_failure(detector);
    a_failed_decoding_leaves_a_black_frame(detector);
    return status();
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
