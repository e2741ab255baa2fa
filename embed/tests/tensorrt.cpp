// tensorrt: the TensorRT backend with fakes of TensorRT and CUDA (fake_tensorrt/), through the
// exported functions.
#include <algorithm>
#include <cmath>
#include <kdx/kdx.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda_runtime_api.h"
#include "engine_bundle.h"
#include "fake.h"
#include "internals.h"
#include "pictures.h"
#include "test_bundle.h"

namespace {

std::string bundle;

kdx::Options options() {
    kdx::Options made;
    made.backend = "tensorrt";
    made.precision = "fp32";
    return made;
}

// Frames of a detector, and the score that the fake engine returns for each.
class Frames {
public:
    explicit Frames(const kdx_description &takes) {
        for (unsigned i = 0; i < 40; ++i) {
            pixels_.push_back(frame_of(takes, i));
            images.push_back(image_of(takes, pixels_.back()));
            scores.push_back(fake::score_of(pixels_.back().data(), pixels_.back().size()));
        }
    }

    std::vector<kdx_image> images;
    std::vector<float> scores;

private:
    std::vector<std::vector<std::uint8_t>> pixels_;
};

// Every detector here is of the same bundle.
const Frames &frames_of(const kdx::Detector &detector) {
    static const Frames frames(detector.describe());
    return frames;
}

// A batch that was judged through the C interface, with maps.
struct Batch {
    std::vector<kdx_verdict> verdicts;
    std::vector<std::vector<float>> values;
    kdx_status status = KDX_OK;

    Batch(kdx::Detector &detector, const Frames &frames, std::size_t count) : verdicts(count) {
        const auto &takes = detector.describe();
        std::vector<kdx_map> maps;
        values.assign(count, std::vector<float>(static_cast<std::size_t>(takes.map_height) * takes.map_width, 1.0f));
        for (auto &each : values) maps.push_back({each.data(), 0});
        for (auto &each : verdicts) {
            KDX_INIT(each);
            each.decision = KDX_GOOD, each.score = -1;
        }
        status = kdx_infer_batch(detector.handle(), count, frames.images.data(), verdicts.data(), maps.data());
    }

    bool is_right(const Frames &frames) const {
        for (std::size_t i = 0; i < verdicts.size(); ++i) {
            const bool is_map =
                std::all_of(values[i].begin(), values[i].end(), [&](float value) { return value == frames.scores[i]; });
            if (verdicts[i].decision != KDX_GOOD || verdicts[i].score != frames.scores[i] || !is_map) return false;
        }
        return status == KDX_OK;
    }

    bool is_blank() const {
        for (std::size_t i = 0; i < verdicts.size(); ++i) {
            const bool is_map =
                std::all_of(values[i].begin(), values[i].end(), [](float value) { return std::isnan(value); });
            if (verdicts[i].decision != KDX_UNDECIDED || !std::isnan(verdicts[i].score) || !is_map) return false;
        }
        return status == KDX_ERROR_BACKEND;
    }
};

std::size_t launches() { return fake::calls("cudaGraphLaunch"); }
std::size_t captures() { return fake::calls("cudaStreamBeginCapture"); }

// Runs batches of several sizes. Every answer must be right.
void run(kdx::Detector &detector, const Frames &frames, const std::vector<std::size_t> &counts) {
    for (const auto count : counts) CHECK(Batch(detector, frames, count).is_right(frames));
}

void a_batch_is_plain_then_captured_then_replayed() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    run(detector, frames, {5});
    const auto before = launches(), made = captures();
    run(detector, frames, {5, 5, 5});
    CHECK(launches() == before + 3 && captures() == made + 1);
}

void another_batch_in_a_profile_drops_its_graph() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    run(detector, frames, {5, 5, 5, 7, 5, 5, 5, 7, 7, 7, 5, 32, 32, 3});
    // No graph is captured for sizes that alternate, because no call could use it.
    const auto before = captures();
    run(detector, frames, {5, 7, 5, 7, 5, 7});
    CHECK(captures() == before);
}

void profiles_do_not_disturb_each_other() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    run(detector, frames, {1, 1, 5, 5});
    const auto before = launches(), made = captures();
    run(detector, frames, {1, 5, 1, 5});
    CHECK(launches() == before + 4 && captures() == made);
}

void an_engine_that_cannot_be_captured_runs_plainly() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    fake::refuse_captures(true);
    const auto before = launches(), made = captures();
    run(detector, frames, {5, 5, 5, 1, 1, 1, 5, 5});
    fake::refuse_captures(false);
    CHECK(launches() == before && captures() == made + 1);  // and captures are not tried again
}

void a_batch_whose_second_part_fails_leaves_nothing_good() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    CHECK(detector.describe().max_batch == static_cast<int>(kLarge));
    run(detector, frames, {40});
    fake::fail_at(2, "enqueueV3");
    CHECK(Batch(detector, frames, 40).is_blank());
    CHECK(fake::failed() == "enqueueV3");
    run(detector, frames, {40, 40});
}

// The reason of a failed call is what TensorRT logged during it, and not what it had logged before.
void a_failure_has_its_own_reason() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    const auto reason_of = [&](const char *name, std::size_t count) {
        fake::fail_at(1, name);
        CHECK(Batch(detector, frames, count).is_blank());
        return std::string(kdx_last_error());
    };
    CHECK(contains(reason_of("enqueueV3", kSmall), "the enqueue failed"));
    CHECK(contains(reason_of("createExecutionContext", 5), "no reason was given"));
    run(detector, frames, {5, kSmall});
}

// Whichever function fails, the call reports it and leaves nothing good, or its answer is right.
// The next call is right.
void any_one_call_may_fail() {
    const std::vector<std::size_t> script = {kSmall, kSmall, kSmall, 5, 5, 5, 7, 5, kSmall};
    std::set<std::string> seen;
    for (std::size_t number = 1;; ++number) {
        CHECK(fake::held() == 0);
        kdx::Detector detector(bundle, options());
        const auto &frames = frames_of(detector);
        fake::fail_at(number);
        for (const auto count : script) {
            const Batch batch(detector, frames, count);
            CHECK(batch.is_right(frames) || batch.is_blank());
        }
        const auto failed = fake::failed();
        fake::fail_at(0);
        run(detector, frames, {5, 5, 5, kSmall, kSmall});
        if (failed.empty()) break;  // the script has no more calls
        seen.insert(failed);
    }
    for (const auto *each :
         {"cudaSetDevice", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamBeginCapture", "cudaStreamEndCapture",
          "cudaGraphInstantiateWithFlags", "cudaGraphLaunch", "createExecutionContext", "setOptimizationProfileAsync",
          "setInputShape", "setTensorAddress", "enqueueV3"})
        CHECK(seen.count(each) || (std::fprintf(stderr, "%s did not fail\n", each), false));
}

void a_detector_that_cannot_be_opened_holds_nothing() {
    for (std::size_t number = 1;; ++number) {
        fake::fail_at(number);
        try {
            const kdx::Detector detector(bundle, options());
            if (!fake::failed().empty()) continue;
            fake::fail_at(0);
            return;
        } catch (const kdx::Error &error) {
            CHECK(!fake::failed().empty() && fake::held() == 0);
        }
    }
}

// The GPU that the caller uses for its own work is still selected after every call.
void the_callers_gpu_stays_selected() {
    const auto is_selected = [](int expected) {
        int device = -1;
        return cudaGetDevice(&device) == cudaSuccess && device == expected;
    };
    CHECK(cudaSetDevice(1) == cudaSuccess);
    {
        kdx::Detector detector(bundle, options());
        CHECK(is_selected(1));
        const auto &frames = frames_of(detector);
        run(detector, frames, {5, 5, 5, kSmall});
        fake::fail_at(1, "enqueueV3");
        CHECK(Batch(detector, frames, 7).is_blank() && is_selected(1));
        fake::fail_at(0);
    }
    CHECK(is_selected(1));
    CHECK(cudaSetDevice(0) == cudaSuccess);
}

void options_without_effect_are_refused() {
    const auto refused = [](auto &&change) {
        auto given = options();
        change(given);
        try {
            const kdx::Detector detector(bundle, given);
            return std::string();
        } catch (const kdx::Error &error) {
            CHECK(error.status() == KDX_ERROR_ARGUMENT);
            return std::string(error.what());
        }
    };
    CHECK(contains(refused([](auto &given) { given.threads = 2; }), "'tensorrt' does not use threads"));
    CHECK(contains(refused([](auto &given) { given.cache_dir = "cache"; }), "'tensorrt' does not use cache_dir"));
}

void threads_take_turns() {
    kdx::Detector detector(bundle, options());
    const auto &frames = frames_of(detector);
    std::vector<std::thread> threads;
    std::vector<int> wrong(8);
    for (std::size_t i = 0; i < wrong.size(); ++i)
        threads.emplace_back([&, i] {
            for (int call = 0; call < 20; ++call) wrong[i] += !Batch(detector, frames, 1 + i % 4).is_right(frames);
        });
    for (auto &thread : threads) thread.join();
    CHECK(std::all_of(wrong.begin(), wrong.end(), [](int count) { return count == 0; }));
}

// Memory is copied by the sizes that the index names.
void an_engine_of_another_size_is_refused(const EngineBundle &engines) {
    engines.write_engine(kdx::embed::Precision::fp32, 1);
    try {
        const kdx::Detector detector(bundle, options());
        CHECK(!"it was refused");
    } catch (const kdx::Error &error) {
        CHECK(error.status() == KDX_ERROR_BACKEND && contains(error.what(), "'anomaly_map' has another size"));
    }
    engines.write_engine(kdx::embed::Precision::fp32);
}

// Without a named precision, the fastest is taken of which there is an engine, and for which the
// bundle is calibrated.
void the_precision_of_an_engine_is_taken(const EngineBundle &engines) {
    auto fastest = options();
    fastest.precision.clear();
    const auto taken = [&] { return std::string(kdx::Detector(bundle, fastest).describe().precision); };
    CHECK(taken() == "fp32");
    if (!engines.has(kdx::embed::Precision::int8)) return;
    engines.write_engine(kdx::embed::Precision::int8);
    CHECK(taken() == "fp32");
    engines.write_int8_threshold();
    CHECK(taken() == "int8");
    fastest.precision = "fp16";
    try {
        taken();
        CHECK(false);
    } catch (const kdx::Error &error) {
        CHECK(contains(error.what(), "--fp16 --flavour tensorrt"));
    }
}

}  // namespace

int tensorrt() {
    const EngineBundle with_engine(test_bundle());
    bundle = static_cast<const std::filesystem::path &>(with_engine).string();
    a_batch_is_plain_then_captured_then_replayed();
    another_batch_in_a_profile_drops_its_graph();
    profiles_do_not_disturb_each_other();
    an_engine_that_cannot_be_captured_runs_plainly();
    a_batch_whose_second_part_fails_leaves_nothing_good();
    a_failure_has_its_own_reason();
    any_one_call_may_fail();
    a_detector_that_cannot_be_opened_holds_nothing();
    the_callers_gpu_stays_selected();
    options_without_effect_are_refused();
    threads_take_turns();
    an_engine_of_another_size_is_refused(with_engine);
    the_precision_of_an_engine_is_taken(with_engine);
    CHECK(fake::held() == 0);
    for (const auto &misuse : fake::misuses()) std::fprintf(stderr, "%s\n", misuse.c_str()), ++failures;
    return status();
}
