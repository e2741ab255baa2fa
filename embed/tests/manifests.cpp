// manifests: what the library reads of bundle.json, and which changes to it it refuses.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "check.h"
#include "files.h"
#include "internals.h"
#include "json_reading.h"
#include "manifest.h"
#include "open_bundle.h"
#include "support.h"
#include "test_bundle.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

using nlohmann::json;

// A threshold without held-out scores.
json threshold_of(double score, const json &graph) {
    return {{"score", score},       {"false_reject_rate", 0.0}, {"interval", {nullptr, nullptr}},
            {"confidence", 0.95},   {"images", 0},              {"data_sha256", ""},
            {"graph_sha256", graph}, {"created", ""}};
}

json variant_of(const char *file) { return {{"file", file}, {"convolutions", 1}, {"kept", json::array()}}; }

void manifests_are_checked(const fs::path &path) {
    const auto text = ke::read_file(path / "bundle.json");
    std::string message;
    const auto check = [&](const std::string &changed) {
        return status_of([&] { ke::parse_manifest(changed, path); }, &message);
    };
    // Checks the manifest after a change to it.
    const auto check_after = [&](auto &&change) {
        auto manifest = ke::parse_json(text);
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
    for (const auto *name :
         {"pair_spec", "frame_limits", "variants", "thresholds", "runtime_thresholds", "provenance", "files", "input"})
        for (const auto &none : {json(), json(true), json::array()}) {
            CHECK(check_after([&](json &manifest) { manifest[name] = none; }) == KDX_ERROR_BUNDLE);
            CHECK(contains(message, std::string("'") + name + "' is not an object"));
        }
    CHECK(check_after([](json &manifest) { manifest.erase("pair_spec"); }) == KDX_ERROR_BUNDLE);
    CHECK(check_after([](json &manifest) { manifest["threshold"]["scores"] = nullptr; }) == KDX_ERROR_BUNDLE);
    CHECK(check_after([](json &manifest) { manifest["frame_limits"] = json::object(); }) == KDX_OK);
    CHECK(check_after([](json &manifest) { manifest["frame_limits"]["dark"] = 64; }) == KDX_ERROR_BUNDLE);
    // What is iterated over is an array of objects: a channel without its limits would let every
    // frame pass.
    for (const auto *channels : {"null", "5", "\"x\"", "{}", "[5, 5, 5]", "[null, null, null]", "[\"x\"]", "[[]]"})
        CHECK(check_after([&](json &manifest) { manifest["frame_limits"]["channels"] = ke::parse_json(channels); }) ==
              KDX_ERROR_BUNDLE);
    CHECK(check_after([](json &manifest) { manifest["frame_limits"]["channels"] = json::array(); }) == KDX_OK);
    for (const auto *nothing : {"null", "[]", "{}", "1", "\"\"", "{\"schema\": \"1\"}", "{\"schema\": 1}"})
        CHECK(check(nothing) == KDX_ERROR_BUNDLE);
}

// Python requires these fields, and their types, although this library does not use them.
void fields_are_those_that_python_requires(const fs::path &path) {
    auto manifest = ke::parse_json(ke::read_file(path / "bundle.json"));
    const auto graph = manifest["files"]["model.onnx"];
    for (const auto *name : {ke::kRoi, ke::kLevel}) manifest["files"].erase(name);
    manifest["schema"] = 4, manifest["tiling"] = nullptr;
    manifest["variants"] = {{"bf16", variant_of("model.onnx")}}, manifest["thresholds"] = json::object();
    manifest["threshold"] = threshold_of(0.5, graph);
    manifest["runtime_thresholds"] = {{"bf16", {{"openvino", threshold_of(0.5, graph)}}}};
    manifest["frame_limits"] = {{"images", 3}};
    const auto check = [&](const json::json_pointer &pointer, const json &value) {
        auto changed = manifest;
        if (value.is_discarded())
            changed[pointer.parent_pointer()].erase(pointer.back());
        else
            changed[pointer] = value;
        return status_of([&] { ke::parse_manifest(changed.dump(), path); });
    };
    const json absent(json::value_t::discarded);
    CHECK(check(json::json_pointer("/kdx_version"), "0.1.0") == KDX_OK);
    for (const auto *name :
         {"/kdx_version", "/method", "/provenance", "/provenance/created", "/provenance/data_sha256",
          "/provenance/epoch", "/threshold/interval", "/threshold/confidence", "/threshold/created",
          "/threshold/data_sha256", "/threshold/images", "/threshold/false_reject_rate",
          "/runtime_thresholds/bf16/openvino/created", "/variants/bf16/file", "/variants/bf16/convolutions"}) {
        const bool is_refused = check(json::json_pointer(name), absent) == KDX_ERROR_BUNDLE &&
                                check(json::json_pointer(name), json::array({1})) == KDX_ERROR_BUNDLE;
        CHECK(is_refused || (std::fprintf(stderr, "%s\n", name), false));
    }
    for (const auto *name : {"/provenance", "/provenance/int8", "/input/fixed_size", "/frame_limits/images",
                             "/calibration_images", "/threshold/by_hand", "/threshold/review", "/threshold/level"})
        CHECK(check(json::json_pointer(name), "x") == KDX_ERROR_BUNDLE);
    CHECK(check(json::json_pointer("/threshold/images"), -1) == KDX_ERROR_BUNDLE);
    // As many scores as images at most: what does not fit them would not be found.
    auto held = threshold_of(0.2, graph);
    held["scores"] = {0.1, 0.2}, held["images"] = 2;
    CHECK(check(json::json_pointer("/threshold"), held) == KDX_OK);
    held["images"] = 1;
    CHECK(check(json::json_pointer("/threshold"), held) == KDX_ERROR_BUNDLE);
}

// A number is not cut off to one that fits, as by a cast to int.
void numbers_are_not_cut_off(const fs::path &path) {
    const auto text = ke::read_file(path / "bundle.json");
    const auto is_refused = [&](auto &&change) {
        auto manifest = ke::parse_json(text);
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
    auto manifest = ke::parse_json(ke::read_file(path / "bundle.json"));
    std::string message;
    const auto check = [&] { return status_of([&] { ke::parse_manifest(manifest.dump(), path); }, &message); };
    manifest["variants"] = json::object(), manifest["schema"] = 3;
    manifest["provenance"]["int8"] = {
        {"checkpoint_sha256", ""}, {"teacher_sha256", ""}, {"epoch", 3}, {"headroom", 1.0}};
    CHECK(check() == KDX_ERROR_BUNDLE && contains(message, "the origin of INT8 students"));
    manifest["variants"]["int8"] = variant_of("model.int8.onnx");
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
    auto manifest = ke::parse_json(ke::read_file(path / "bundle.json"));
    for (const auto *name : {ke::kRoi, ke::kLevel}) manifest["files"].erase(name);
    const auto graph = manifest["files"]["model.onnx"];
    manifest["variants"]["bf16"] = variant_of("model.onnx");
    manifest.erase("thresholds");
    manifest["threshold"] = threshold_of(0.5, graph);
    const auto parse_with = [&](const json &thresholds) {
        manifest["runtime_thresholds"] = {{"bf16", thresholds}};
        return ke::parse_manifest(manifest.dump(), path);
    };
    const json threshold = threshold_of(0.25, graph);
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
    for (const auto &other : {std::string(), hash})
        CHECK(changed_with("level", {{"sha256", other}, {"images", 1}, {"data_sha256", ""}}) == ke::Change::level_map);
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
    auto manifest = ke::parse_json(ke::read_file(path / "bundle.json"));
    for (const auto *name : {ke::kRoi, ke::kLevel}) manifest["files"].erase(name);
    manifest.erase("thresholds");
    manifest["variants"]["bf16"] = variant_of("model.onnx");
    const auto set_to = [&](double score, const json &review) {
        auto record = threshold_of(score, manifest["files"]["model.onnx"]);
        record["scores"] = {0.1, 0.2, 0.3}, record["images"] = 3;
        if (!review.is_null())
            record["review"] = {{"score", review}, {"false_reject_rate", 0.0}, {"interval", {nullptr, nullptr}}};
        record["by_hand"] = {
            {"score", 0.8}, {"review_score", 0.4}, {"reason", "stains may pass"}, {"defects", nullptr}};
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

}  // namespace

int manifests() {
    const fs::path bundle = test_bundle();
    manifests_are_checked(bundle);
    fields_are_those_that_python_requires(bundle);
    numbers_are_not_cut_off(bundle);
    records_that_are_nested_too_deep_are_refused(bundle);
    int8_students_have_a_reference(bundle);
    thresholds_are_read_by_runtime(bundle);
    thresholds_by_hand_are_the_number_given(bundle);
    return status();
}
