// kdx_calls [BACKEND]: the exported functions as a line calls them, with wrong arguments, and from
// many threads.
#include <atomic>
#include <cmath>
#include <cstring>
#include <kdx/kdx.hpp>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "pictures.h"
#include "test_bundle.h"

namespace {

std::string bundle;
kdx::Options options;

void arguments_are_checked() {
    kdx_detector *opened = reinterpret_cast<kdx_detector *>(1);
    CHECK(kdx_open(nullptr, nullptr, &opened) == KDX_ERROR_ARGUMENT);
    CHECK(opened == nullptr);
    CHECK(std::strlen(kdx_last_error()) > 0);
    CHECK(kdx_open(bundle.c_str(), nullptr, nullptr) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_open("/no/such/bundle", nullptr, &opened) == KDX_ERROR_BUNDLE);
    CHECK(std::string(kdx_last_error()).find("/no/such/bundle") != std::string::npos);
    kdx_options given;
    std::memset(&given, 0xff, sizeof given);
    CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_ARGUMENT);
    KDX_INIT(given);
    given.backend = "abacus";
    CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_BACKEND);
    given.backend = nullptr;
    given.precision = "int3";
    CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_BACKEND);
    given.precision = nullptr;
    for (const std::int32_t threads : {-1, 1025}) {
        given.threads = threads;
        CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_ARGUMENT);
        CHECK(std::string(kdx_last_error()).find("0 to 1024") != std::string::npos);
    }
    given.threads = 0;
    // The CPU is no GPU.
    given.backend = "openvino", given.device = 7;
    CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_ARGUMENT);
    CHECK(std::string(kdx_last_error()).find("does not use device") != std::string::npos);
    given.backend = nullptr, given.device = 0;
    given.batch_size_count = 1;
    CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_ARGUMENT);
    for (const std::int32_t size : {0, -1, 1 << 21}) {
        given.batch_sizes = &size;
        CHECK(kdx_open(bundle.c_str(), &given, &opened) == KDX_ERROR_ARGUMENT);
        CHECK(std::string(kdx_last_error()).find("batch size") != std::string::npos);
    }

    // A signature is required but no key is given. Also a library that cannot check signatures
    // refuses this.
    opened = reinterpret_cast<kdx_detector *>(1);
    CHECK(kdx_open_signed(bundle.c_str(), nullptr, nullptr, 0, &opened) == KDX_ERROR_ARGUMENT);
    CHECK(opened == nullptr && std::string(kdx_last_error()).find("signature") != std::string::npos);
    const char *no_key = nullptr;
    CHECK(kdx_open_signed(bundle.c_str(), nullptr, &no_key, 1, &opened) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_open_signed(bundle.c_str(), nullptr, &no_key, 1, nullptr) == KDX_ERROR_ARGUMENT);
    // The public key of RFC 8410, section 10.1, which has signed no bundle.
    const char *key =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n";
    opened = reinterpret_cast<kdx_detector *>(1);
    const auto with_a_key = kdx_open_signed(bundle.c_str(), nullptr, &key, 1, &opened);
    const std::string why = kdx_last_error();
    CHECK(opened == nullptr);
#if defined(KDX_WITH_OPENSSL)
    CHECK(with_a_key == KDX_ERROR_BUNDLE && why.find("OpenSSL") == std::string::npos);
#else
    CHECK(with_a_key == KDX_ERROR_ARGUMENT && why.find("built without OpenSSL") != std::string::npos);
#endif
    auto unsigned_options = options;
    unsigned_options.require_signature.emplace();
    kdx_status refused = KDX_OK;
    try {
        const kdx::Detector detector(bundle, unsigned_options);
    } catch (const kdx::Error &error) {
        refused = error.status();
    }
    CHECK(refused == KDX_ERROR_ARGUMENT);

    kdx_verdict verdict;
    KDX_INIT(verdict);
    const kdx_image nothing{};
    CHECK(kdx_infer(nullptr, &nothing, &verdict, nullptr) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_describe(nullptr, nullptr) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_selftest(nullptr, 0, 95, 40, nullptr) == KDX_ERROR_ARGUMENT);
    kdx_close(nullptr);
    CHECK(kdx_abi_version() == KDX_ABI_VERSION);
}

void strides_and_orders_change_nothing(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    const auto pixels = frame_of(takes, 1);
    std::vector<float> map;
    const auto expected = detector(image_of(takes, pixels), map);
    const auto row = static_cast<std::size_t>(takes.width) * takes.channels, stride = row + 13;
    std::vector<std::uint8_t> padded(stride * takes.height, 0xee);
    for (int y = 0; y < takes.height; ++y)
        for (std::size_t x = 0; x < row; ++x) {
            const auto swapped = takes.channels == 3 ? x - x % 3 + 2 - x % 3 : x;
            padded[y * stride + swapped] = pixels[y * row + x];
        }
    auto image = image_of(takes, padded);
    image.row_stride = static_cast<std::int64_t>(stride);
    if (takes.channels == 3) image.format = takes.format == KDX_RGB8 ? KDX_BGR8 : KDX_RGB8;
    // The rows of the map are padded. The call must not write to the padding.
    const auto map_row = static_cast<std::size_t>(takes.map_width) + 5;
    std::vector<float> wide(map_row * takes.map_height, -7.0f);
    const kdx_map target{wide.data(), static_cast<std::int64_t>(map_row * sizeof(float))};
    kdx_verdict verdict;
    KDX_INIT(verdict);
    CHECK(kdx_infer(detector.handle(), &image, &verdict, &target) == KDX_OK);
    CHECK(verdict.score == expected.score);
    for (int y = 0; y < takes.map_height; ++y) {
        CHECK(std::memcmp(&wide[y * map_row], &map[static_cast<std::size_t>(y) * takes.map_width],
                          takes.map_width * sizeof(float)) == 0);
        CHECK(wide[y * map_row + takes.map_width] == -7.0f);
    }
    // Rows that are not aligned. What is left out of a region of interest becomes 0 there, too.
    const auto pixels_of_frame = static_cast<std::size_t>(takes.height) * takes.width;
    std::vector<std::uint8_t> mask(pixels_of_frame, 255);
    std::fill_n(mask.begin(), takes.width, std::uint8_t{0});
    const kdx_image roi{mask.data(), takes.height, takes.width, KDX_MONO8, 0};
    const auto odd_row = static_cast<std::size_t>(takes.map_width) * sizeof(float) + 1;
    std::vector<char> odd(odd_row * takes.map_height);
    const kdx_map unaligned{reinterpret_cast<float *>(odd.data()), static_cast<std::int64_t>(odd_row)};
    CHECK(kdx_infer_roi(detector.handle(), &image, &roi, &verdict, &unaligned) == KDX_OK);
    const std::vector<char> zeros(static_cast<std::size_t>(takes.map_width) * sizeof(float));
    CHECK(std::memcmp(odd.data(), zeros.data(), zeros.size()) == 0);
    const auto last = static_cast<std::size_t>(takes.map_height) - 1;
    CHECK(std::memcmp(&odd[last * odd_row], &map[last * takes.map_width], zeros.size()) == 0);
    std::size_t count = 0;
    CHECK(kdx_regions(detector.handle(), &unaligned, -1, 0, 0, 0, nullptr, &count) == KDX_OK && count == 1);
}

void batches_are_judged_as_single_images_are(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    std::vector<std::vector<std::uint8_t>> frames;
    std::vector<kdx_image> images;
    for (unsigned i = 0; i < 5; ++i) frames.push_back(frame_of(takes, i));
    for (const auto &each : frames) images.push_back(image_of(takes, each));
    const auto verdicts = detector.batch(images);
    CHECK(verdicts.size() == images.size());
    for (std::size_t i = 0; i < images.size(); ++i) {
        const auto alone = detector(images[i]);
        // Another batch size adds the same products in another order.
        CHECK(std::abs(verdicts[i].score - alone.score) <= 1e-4f * std::abs(alone.score));
        CHECK(verdicts[i].decision == alone.decision);
    }
    CHECK(detector.batch({}).empty());
}

void a_black_frame_is_never_good(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    const std::vector<std::uint8_t> black(static_cast<std::size_t>(takes.height) * takes.width * takes.channels, 0);
    const auto verdict = detector(image_of(takes, black));
    CHECK(verdict.frame_faults & KDX_FRAME_UNIFORM);
    CHECK(!verdict.is_good());
    CHECK(std::isfinite(verdict.score));
}

void threads_get_the_same_answers(kdx::Detector &detector) {
    const auto &takes = detector.describe();
    constexpr unsigned kThreads = 16, kCalls = 6;
    std::vector<std::vector<std::uint8_t>> frames;
    std::vector<float> expected;
    for (unsigned i = 0; i < kThreads; ++i) {
        frames.push_back(frame_of(takes, i));
        expected.push_back(detector(image_of(takes, frames.back())).score);
    }
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] {
            for (unsigned call = 0; call < kCalls; ++call) {
                if (detector(image_of(takes, frames[i])).score != expected[i]) ++wrong;
                // Each thread has its own error message.
                kdx_verdict verdict;
                KDX_INIT(verdict);
                auto image = image_of(takes, frames[i]);
                image.height = static_cast<int>(1000000 + i);
                if (kdx_infer(detector.handle(), &image, &verdict, nullptr) != KDX_ERROR_IMAGE) ++wrong;
                if (std::string(kdx_last_error()).find(std::to_string(1000000 + i)) == std::string::npos) ++wrong;
            }
        });
    for (auto &thread : threads) thread.join();
    CHECK(wrong == 0);
}

// Several threads need the same new batch sizes at once while others judge single images. No answer
// changes.
void new_batch_sizes_are_safe_beside_single_images() {
    auto given = options;
    given.batch_sizes = {2, 1, 2};
    kdx::Detector detector(bundle, given);
    const auto &takes = detector.describe();
    constexpr int kThreads = 6;
    std::vector<std::vector<std::uint8_t>> frames;
    std::vector<kdx_image> images;
    std::vector<float> expected;
    for (unsigned i = 0; i < 7; ++i) frames.push_back(frame_of(takes, i));
    for (const auto &each : frames) {
        images.push_back(image_of(takes, each));
        expected.push_back(detector(images.back()).score);
    }
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] {
            for (std::size_t size = 2; size <= images.size(); ++size) {
                const auto count = i % 2 ? size : 1;
                const auto verdicts =
                    detector.batch({images.begin(), images.begin() + static_cast<std::ptrdiff_t>(count)});
                for (std::size_t k = 0; k < count; ++k)
                    if (!(std::abs(verdicts[k].score - expected[k]) <= 1e-4f * std::abs(expected[k]))) ++wrong;
            }
        });
    for (auto &thread : threads) thread.join();
    CHECK(wrong == 0);
}

void the_selftest_passes_and_can_fail(kdx::Detector &detector) {
    const auto report = detector.selftest(0, 90, 10);
    CHECK(report.passed == 1 || (std::fprintf(stderr, "%s\n", report.said), false));
    CHECK(report.images > 0 && report.calls == 10 && report.latency_ms >= report.median_ms);
    CHECK(report.score_difference <= report.score_allowed && report.map_difference <= report.map_allowed);
    const auto late = detector.selftest(1e-6, 90, 10);
    CHECK(late.passed == 0 && std::string(late.said).find("budget") != std::string::npos);
    kdx_selftest_report refused;
    KDX_INIT(refused);
    CHECK(kdx_selftest(detector.handle(), -1, 95, 40, &refused) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_selftest(detector.handle(), 1, 99, 40, &refused) == KDX_ERROR_ARGUMENT);
    CHECK(kdx_selftest(detector.handle(), 1, std::nan(""), 40, &refused) == KDX_ERROR_ARGUMENT);
}

// A cache that cannot be written costs time at every start, and nothing else.
void a_cache_without_effect_is_named() {
    auto cached = options;
    cached.backend = "openvino", cached.cache_dir = "/proc/nothing/cache";
    const std::string said = kdx::Detector(bundle, cached).describe().said;
    CHECK(said.find("the cache '/proc/nothing/cache' cannot be written: ") != std::string::npos);
}

void opening_and_closing_in_parallel_is_safe() {
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            try {
                kdx::Detector detector(bundle, options);
                const auto pixels = frame_of(detector.describe(), 3);
                if (!std::isfinite(detector(image_of(detector.describe(), pixels)).score)) ++wrong;
            } catch (const std::exception &error) {
                std::fprintf(stderr, "%s\n", error.what());
                ++wrong;
            }
        });
    for (auto &thread : threads) thread.join();
    CHECK(wrong == 0);
}

}  // namespace

int main(int argc, char **argv) try {
    bundle = test_bundle();
    options.backend = argc > 1 ? argv[1] : "";
    options.precision = "fp32";
    options.threads = options.backend == "tensorrt" ? 0 : 1;
    arguments_are_checked();
    kdx::Detector detector(bundle, options);
    strides_and_orders_change_nothing(detector);
    batches_are_judged_as_single_images_are(detector);
    a_black_frame_is_never_good(detector);
    threads_get_the_same_answers(detector);
    new_batch_sizes_are_safe_beside_single_images();
    the_selftest_passes_and_can_fail(detector);
    if (options.threads) a_cache_without_effect_is_named();
    opening_and_closing_in_parallel_is_safe();
    return status();
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
