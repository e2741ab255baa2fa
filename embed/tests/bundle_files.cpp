// bundle_files: what the library reads of a bundle, and which changes to one it refuses. No
// graph is run.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "check.h"
#include "files.h"
#include "golden.h"
#include "internals.h"
#include "manifest.h"
#include "open_bundle.h"
#include "support.h"
#include "test_bundle.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

using nlohmann::json;

void manifests_are_checked(const fs::path &path) {
    const auto text = ke::read_file(path / "bundle.json");
    std::string message;
    const auto check = [&](const std::string &changed) {
        return status_of([&] { ke::parse_manifest(changed, path); }, &message);
    };
    // Checks the manifest after a change to it.
    const auto check_after = [&](auto &&change) {
        auto manifest = json::parse(text);
        change(manifest);
        return check(manifest.dump());
    };
    CHECK(check(text) == KDX_OK);
    for (const int schema : {1, 2, 3, 4})
        CHECK(check_after([&](json &manifest) { manifest["schema"] = schema; }) == KDX_OK);
    CHECK(check_after([](json &manifest) { manifest["schema"] = 5; }) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "newer kdx") && contains(message, "fix: update kdx"));
    for (const auto &nothing : {json(0), json(-1), json(true), json(1.5), json(18446744073709551615U)}) {
        CHECK(check_after([&](json &manifest) { manifest["schema"] = nothing; }) == KDX_ERROR_BUNDLE);
        CHECK(contains(message, "there is no schema"));
    }
    for (const auto *outside : {"../model.onnx", "/etc/passwd", "a/../../b", "C:\\model.onnx", ""}) {
        CHECK(check_after([&](json &manifest) { manifest["files"][outside] = manifest["files"]["model.onnx"]; }) ==
              KDX_ERROR_BUNDLE);
        CHECK(contains(message, "outside the bundle"));
    }
    CHECK(check_after([](json &manifest) { manifest["files"].erase("model.onnx"); }) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "does not list 'model.onnx'"));
    for (const auto height : {-64, 0, 99999999}) {
        CHECK(check_after([&](json &manifest) { manifest["input"]["height"] = height; }) == KDX_ERROR_BUNDLE);
        CHECK(contains(message, "a whole number from 1 to 131072"));
        CHECK(contains(message, "fix: export the bundle again"));
    }
    // Line-scan cameras deliver long frames.
    CHECK(check_after([](json &manifest) { manifest["input"]["height"] = 40000; }) == KDX_OK);
    CHECK(check_after([](json &manifest) { manifest["max_batch"] = 100000; }) == KDX_OK);
    CHECK(check_after([](json &manifest) { manifest["map_size"] = {30000, 30000}; }) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "more than 268435456 pixels"));
    CHECK(check_after([](json &manifest) { manifest["field_of_view"] = 0; }) == KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length + 2 < text.size(); length += 97)
        CHECK(check(text.substr(0, length)) == KDX_ERROR_BUNDLE);
    for (const auto *name : {"pair_spec", "frame_limits", "variants", "thresholds", "runtime_thresholds"})
        for (const auto &none : {json(), json(true), json::array()}) {
            CHECK(check_after([&](json &manifest) { manifest[name] = none; }) == KDX_ERROR_BUNDLE);
            CHECK(contains(message, std::string("'") + name + "' is not an object"));
        }
    CHECK(check_after([](json &manifest) { manifest.erase("pair_spec"); }) == KDX_ERROR_BUNDLE);
    CHECK(check_after([](json &manifest) { manifest["threshold"]["scores"] = nullptr; }) == KDX_ERROR_BUNDLE);
    CHECK(check_after([](json &manifest) { manifest["frame_limits"] = json::object(); }) == KDX_OK);
    CHECK(check_after([](json &manifest) { manifest["frame_limits"]["dark"] = 64; }) == KDX_ERROR_BUNDLE);
    for (const auto *nothing : {"null", "[]", "{}", "1", "\"\"", "{\"schema\": \"1\"}", "{\"schema\": 1}"})
        CHECK(check(nothing) == KDX_ERROR_BUNDLE);
}

// A number is not cut off to one that fits, as by a cast to int.
void numbers_are_not_cut_off(const fs::path &path) {
    const auto text = ke::read_file(path / "bundle.json");
    const auto is_refused = [&](auto &&change) {
        auto manifest = json::parse(text);
        manifest["schema"] = 4;
        change(manifest);
        std::string message;
        return status_of([&] { ke::parse_manifest(manifest.dump(), path); }, &message) == KDX_ERROR_BUNDLE &&
               contains(message, "is not a whole number from");
    };
    for (const auto &one : {json(1.0), json(1.9), json(true), json(4294967297U), json(18446744073709551615U)}) {
        CHECK(is_refused([&](json &manifest) { manifest["input"]["channels"] = one; }));
        CHECK(is_refused([&](json &manifest) { manifest["input"]["height"] = one; }));
        CHECK(is_refused([&](json &manifest) { manifest["max_batch"] = one; }));
        CHECK(is_refused([&](json &manifest) { manifest["map_size"][0] = one; }));
        CHECK(is_refused([&](json &manifest) { manifest["threshold"]["images"] = one; }));
        CHECK(is_refused([&](json &manifest) { manifest["input"]["crop"] = {one, 1, 8, 8}; }));
        CHECK(is_refused([&](json &manifest) { manifest["input"]["sixteen_bit_range"] = {one, 4095}; }));
        for (const auto *name : {"overlap", "halo", "batch", "rows", "frame"})
            CHECK(is_refused([&](json &manifest) {
                auto &tiling = manifest["tiling"] = {{"frame", {64, 64}}, {"rows", {0}}, {"columns", {0}}};
                tiling["overlap"] = tiling["halo"] = 0;
                auto &changed = tiling[name];
                (changed.is_array() ? changed[0] : changed) = one;
            }));
    }
}

// A value that is nested too deep would fill the stack.
void records_that_are_nested_too_deep_are_refused(const fs::path &path) {
    constexpr std::size_t deep = 200000;
    const auto nested = std::string(deep, '[') + std::string(deep, ']');
    const auto text = ke::read_file(path / "bundle.json");
    std::string message;
    const auto within = [&](const std::string &record) { return replaced(text, record, record + "\"a\": " + nested + ','); };
    for (const auto &index :
         {"{\"schema\": " + nested + '}', within("\"pair_spec\": {"), within("\"provenance\": {")}) {
        CHECK(status_of([&] { ke::parse_manifest(index, path); }, &message) == KDX_ERROR_BUNDLE);
        CHECK(contains(message, "bundle.json' is not valid: it is nested too deep"));
    }
    const BundleCopy copy(path);
    std::ofstream(copy / "bundle.sig") << "{\"schema\": " << nested << '}';
    CHECK(status_of([&] { ke::open_bundle(copy); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "bundle.sig' is not valid: it is nested too deep"));
}

// INT8 students need an INT8 graph, answers of their own, and a schema that older libraries refuse.
void int8_students_have_a_reference(const fs::path &path) {
    auto manifest = json::parse(ke::read_file(path / "bundle.json"));
    std::string message;
    const auto check = [&] { return status_of([&] { ke::parse_manifest(manifest.dump(), path); }, &message); };
    manifest["variants"] = json::object(), manifest["provenance"]["int8"] = {{"epoch", 3}}, manifest["schema"] = 3;
    CHECK(check() == KDX_ERROR_BUNDLE && contains(message, "the origin of INT8 students"));
    manifest["variants"]["int8"] = json::object();
    manifest["files"]["model.int8.onnx"] = manifest["files"]["model.onnx"];
    for (const auto *name : {"golden/int8/anomaly_map.npy", "golden/int8/anomaly_score.npy"}) {
        CHECK(check() == KDX_ERROR_BUNDLE && contains(message, std::string("does not list '") + name + "'"));
        manifest["files"][name] = manifest["files"]["model.onnx"];
    }
    manifest["runtime_thresholds"] = json::object(), manifest["thresholds"] = json::object();
    CHECK(check() == KDX_OK);
    const auto bundle = ke::parse_manifest(manifest.dump(), path);
    CHECK(bundle.is_own_reference(ke::Precision::int8) && !bundle.is_own_reference(ke::Precision::fp32));
    CHECK(bundle.reference_files(ke::Precision::int8).second == "golden/int8/anomaly_score.npy");
    manifest["schema"] = 2;
    CHECK(check() == KDX_ERROR_BUNDLE && contains(message, "the origin of INT8 students"));
    manifest["provenance"]["int8"] = nullptr;
    CHECK(check() == KDX_OK);
    CHECK(!ke::parse_manifest(manifest.dump(), path).is_own_reference(ke::Precision::int8));
}

// Thresholds of runtimes that this library does not know are checked too, and not used.
void thresholds_are_read_by_runtime(const fs::path &path) {
    auto manifest = json::parse(ke::read_file(path / "bundle.json"));
    for (const auto *name : {ke::kRoi, ke::kLevel}) manifest["files"].erase(name);
    const auto graph = manifest["files"]["model.onnx"];
    manifest["variants"]["bf16"] = json::object();
    manifest.erase("thresholds");
    manifest["threshold"] = {{"score", 0.5}, {"graph_sha256", graph}};
    const auto parse_with = [&](const json &thresholds) {
        manifest["runtime_thresholds"] = {{"bf16", thresholds}};
        return ke::parse_manifest(manifest.dump(), path);
    };
    const json threshold = {{"score", 0.25}, {"graph_sha256", graph}};
    const auto bundle = parse_with({{"openvino", threshold}, {"other", threshold}});
    const auto bf16 = ke::Precision::bf16;
    CHECK(bundle.threshold_of(bf16, ke::Runtime::openvino).score == 0.25);
    CHECK(bundle.is_calibrated_like_fp32(bf16, ke::Runtime::openvino) &&
          bundle.why_undecided(bf16, ke::Runtime::openvino).empty());
    CHECK(!bundle.threshold_of(bf16, ke::Runtime::tensorrt).is_set());
    CHECK(contains(bundle.why_undecided(bf16, ke::Runtime::tensorrt), "bf16 has no threshold for tensorrt"));
    CHECK(bundle.threshold_of(ke::Precision::fp16, ke::Runtime::tensorrt).score == 0.5);
    CHECK(status_of([&] { parse_with({{"other", 1}}); }) == KDX_ERROR_BUNDLE);
    // A threshold that is not used is checked whole, as by Python.
    for (const auto *name : {"level", "roi_sha256"}) {
        auto invalid = threshold;
        invalid[name] = 1;
        CHECK(status_of([&] { parse_with({{"other", invalid}}); }) == KDX_ERROR_BUNDLE);
        for (const auto *precision : {"int8", "fp4"}) {
            auto changed = manifest;
            changed["variants"] = json::object();
            changed["runtime_thresholds"] = {{precision, {{"openvino", invalid}}}};
            CHECK(status_of([&] { ke::parse_manifest(changed.dump(), path); }) == KDX_ERROR_BUNDLE);
            changed["runtime_thresholds"] = json::object();
            changed["thresholds"] = {{precision, invalid}};
            CHECK(status_of([&] { ke::parse_manifest(changed.dump(), path); }) == KDX_ERROR_BUNDLE);
        }
    }
    // A threshold does not hold after the region of interest or the level map was changed.
    const std::string hash(64, 'a');
    const auto changed_with = [&](const char *name, const json &value) {
        auto changed = threshold;
        changed[name] = value;
        return parse_with({{"openvino", changed}}).changed_since(bf16, ke::Runtime::openvino);
    };
    CHECK(changed_with("roi_sha256", hash) == ke::Change::region_of_interest);
    CHECK(changed_with("roi_sha256", "") == ke::Change::region_of_interest);
    CHECK(changed_with("level", {{"sha256", ""}}) == ke::Change::level_map);
    CHECK(changed_with("level", {{"sha256", hash}}) == ke::Change::level_map);
    CHECK(changed_with("level", nullptr) == ke::Change::none);
    // What took the threshold of FP32 took the verdicts of a precision without one of its own, too.
    manifest["threshold"]["roi_sha256"] = hash;
    const auto stale = parse_with(json::object());
    CHECK(stale.invalidated_by(bf16, ke::Runtime::openvino) == ke::Change::region_of_interest);
    CHECK(contains(stale.why_undecided(bf16, ke::Runtime::openvino), "the region of interest was changed"));
    CHECK(parse_with({{"openvino", threshold}}).invalidated_by(bf16, ke::Runtime::openvino) == ke::Change::none);
}

// FP32's threshold is the number that was given. BF16's and INT8's keep the ratio of the two
// numbers. The schema is one that older libraries refuse.
void thresholds_by_hand_are_the_number_given(const fs::path &path) {
    auto manifest = json::parse(ke::read_file(path / "bundle.json"));
    for (const auto *name : {ke::kRoi, ke::kLevel}) manifest["files"].erase(name);
    manifest.erase("thresholds");
    manifest["variants"]["bf16"] = json::object();
    const auto set_to = [&](double score, const json &review) {
        json record = {{"score", score}, {"graph_sha256", manifest["files"]["model.onnx"]}, {"images", 3},
                       {"scores", {0.1, 0.2, 0.3}}, {"false_reject_rate", 0.0}};
        if (!review.is_null()) record["review"] = {{"score", review}, {"false_reject_rate", 0.0}};
        record["by_hand"] = {{"score", 0.8}, {"review_score", 0.4}, {"reason", "stains may pass"}};
        return record;
    };
    std::string message;
    const auto check = [&](const json &shared, const json &own) {
        manifest["threshold"] = shared, manifest["runtime_thresholds"] = {{"bf16", {{"openvino", own}}}};
        return status_of([&] { ke::parse_manifest(manifest.dump(), path); }, &message);
    };
    manifest["schema"] = 4;
    const auto given = set_to(0.8, 0.4), scaled = set_to(0.88, 0.44);
    CHECK(check(given, given) == KDX_OK && check(given, scaled) == KDX_OK);
    for (const auto &edited : {scaled, set_to(0.81, 0.4), set_to(0.8, 0.41), set_to(0.8, nullptr)})
        CHECK(check(edited, scaled) == KDX_ERROR_BUNDLE && contains(message, "is not the number given"));
    for (const auto &edited : {set_to(0.89, 0.44), set_to(0.88, 0.45), set_to(0.88, nullptr)})
        CHECK(check(given, edited) == KDX_ERROR_BUNDLE && contains(message, "is not the number given"));
    for (const double low : {0.4, 0.0}) {  // with a review band, and without
        auto own = set_to(0.88, low > 0 ? json(1.1 * low) : json(nullptr));
        if (low == 0) own["by_hand"]["review_score"] = nullptr;
        CHECK(check(given, own) == KDX_OK);
        own["by_hand"]["factor"] = 1.1;
        CHECK(check(given, own) == KDX_OK);
        own["by_hand"]["factor"] = 1.11;
        CHECK(check(given, own) == KDX_ERROR_BUNDLE && contains(message, "is not the number given"));
    }
    for (const int schema : {1, 2, 3}) {
        manifest["schema"] = schema;
        CHECK(check(given, scaled) == KDX_ERROR_BUNDLE && contains(message, "its schema does not hold everything"));
    }
}

void altered_files_are_refused(const fs::path &path) {
    const auto message_after = [&](auto &&change) {
        const BundleCopy copy(path);
        change(copy);
        std::string message;
        CHECK(status_of([&] { ke::open_bundle(copy).check_files(); }, &message) == KDX_ERROR_BUNDLE);
        return message;
    };
    CHECK(contains(message_after([](auto &copy) { append_space(copy / "model.onnx"); }), "was altered"));
    CHECK(contains(message_after([](auto &copy) { append_space(copy / "golden/anomaly_map.npy"); }), "was altered"));
    CHECK(contains(message_after([](auto &copy) { fs::remove(copy / "model.onnx"); }), "'model.onnx' is missing"));
    CHECK(contains(message_after([](auto &copy) { fs::remove(copy / "bundle.json"); }), "is missing"));
    for (const auto *target : {"model.onnx", "nowhere"})
        CHECK(contains(message_after([&](auto &copy) {
                           fs::remove(copy / "model.onnx");
                           fs::create_symlink(target, copy / "model.onnx");
                       }),
                       "is a link that leads to no file"));
    CHECK(contains(message_after([](auto &copy) {
                       fs::remove(copy / "model.onnx");
                       fs::create_symlink("/etc/passwd", copy / "model.onnx");
                   }),
                   "outside the bundle"));
    // In the cache of a model hub, files are links to their content.
    const BundleCopy copy(path);
    fs::remove(copy / "model.onnx");
    fs::create_symlink(fs::canonical(path / "model.onnx"), copy / "model.onnx");
    CHECK(status_of([&] { ke::open_bundle(copy).check_files(); }) == KDX_OK);
    std::string message;
    CHECK(status_of([&] { ke::open_bundle("/no/such/bundle"); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "there is no bundle"));
    CHECK(status_of([&] { ke::open_bundle(copy / "bundle.json"); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "is a file, and a bundle is a folder"));
    fs::rename(copy / "bundle.json", copy / "run.json");
    CHECK(status_of([&] { ke::open_bundle(copy); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "is not a bundle but a run folder") && contains(message, "kdx export "));
}

void files_are_hashed_each_time_they_are_read(const fs::path &path) {
    const auto is_refused = [&](const std::string &name, auto &&read) {
        const BundleCopy copy(path);
        const auto bundle = ke::open_bundle(copy);
        CHECK(bundle.check_files("model.onnx") == ke::read_file(path / "model.onnx"));
        append_space(copy / name);
        std::string message;
        CHECK(status_of([&] { read(bundle); }, &message) == KDX_ERROR_BUNDLE);
        return contains(message, "'" + name + "' in ") && contains(message, "was altered");
    };
    CHECK(is_refused("model.onnx", [](const ke::Bundle &bundle) { bundle.read("model.onnx"); }));
    const auto golden = ke::open_bundle(path).golden.front();
    for (const auto &name : {std::string("anomaly_map.npy"), std::string("anomaly_score.npy"), golden})
        CHECK(is_refused("golden/" + name, [](const ke::Bundle &bundle) { ke::read_golden(bundle); }));
}

void golden_images_are_read(const fs::path &path) {
    const auto bundle = ke::open_bundle(path);
    const auto golden = ke::read_golden(bundle);
    CHECK(golden.count == bundle.golden.size());
    CHECK(golden.images.size() == golden.count * bundle.height * bundle.width * bundle.channels);
    const auto file = ke::read_file(path / "golden" / bundle.golden.front());
    std::vector<std::uint8_t> pixels;
    const auto decode = [&](const std::string &content, int height) {
        return status_of([&] { ke::decode_png(content, height, bundle.width, bundle.channels, pixels); });
    };
    CHECK(decode(file, bundle.height + 1) == KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length < file.size() - 12; length += 211)
        CHECK(decode(file.substr(0, length), bundle.height) == KDX_ERROR_BUNDLE);
    const auto scores = ke::read_file(path / "golden/anomaly_score.npy");
    CHECK(status_of([&] { ke::decode_npy(scores, {golden.count + 1, 1}); }) == KDX_ERROR_BUNDLE);
    CHECK(status_of([&] { ke::decode_npy(replaced(scores, "<f4", "<f8"), {golden.count, 1}); }) == KDX_ERROR_BUNDLE);
}

}  // namespace

int bundle_files() {
    const fs::path bundle = test_bundle();
    manifests_are_checked(bundle);
    numbers_are_not_cut_off(bundle);
    records_that_are_nested_too_deep_are_refused(bundle);
    int8_students_have_a_reference(bundle);
    thresholds_are_read_by_runtime(bundle);
    thresholds_by_hand_are_the_number_given(bundle);
    altered_files_are_refused(bundle);
    files_are_hashed_each_time_they_are_read(bundle);
    golden_images_are_read(bundle);
    return status();
}
