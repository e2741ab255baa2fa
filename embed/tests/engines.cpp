// engines: which engine of a bundle runs on a machine, without TensorRT and without a GPU.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "bundle.h"
#include "check.h"
#include "engine_record.h"
#include "internals.h"
#include "support.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

const std::string kGraph(64, '1');
const ke::Machine kHere{"10.16.1", "8.6", "A card", "Linux x86_64"};

std::string record_text() {
    return R"({"schema": 1, "precision": "fp32", "batches": [1, 8], "plan_sha256": "0",
               "fingerprint": {"flavour": "tensorrt", "tensorrt": "10.16.1.11", "compute_capability": "8.6",
                               "gpu": "A card", "driver": null, "system": "Linux x86_64"},
               "onnx_sha256": ")" +
           kGraph + "\"}";
}

void records_are_checked() {
    const auto record = ke::parse_engine_record(record_text(), "engines/fp32");
    CHECK(record.batches == (std::vector<int>{1, 8}));
    CHECK(status_of([&] { ke::read_plan(record); }) == KDX_ERROR_BACKEND);
    const auto text = record_text();
    for (const auto &changed : {replaced(text, "[1, 8]", "[]"), replaced(text, "[1, 8]", "[8, 1]"),
                                replaced(text, "[1, 8]", "[0]"), replaced(text, "[1, 8]", "[1, 8.5]"),
                                replaced(text, "\"schema\": 1", "\"schema\": 2"),
                                replaced(text, "\"schema\": 1", "\"schema\": 0"),
                                replaced(text, "\"schema\": 1", "\"schema\": true"),
                                replaced(text, "\"flavour\"", "\"taste\""), std::string("{")})
        CHECK(status_of([&] { ke::parse_engine_record(changed, "engines/fp32"); }) == KDX_ERROR_BACKEND);
}

void engines_are_compared_with_the_machine() {
    const auto record = ke::parse_engine_record(record_text(), "engines/fp32");
    CHECK(ke::mismatch(record, kHere, kGraph).empty());
    const auto differs = [&](ke::Machine other, const char *message) {
        return contains(ke::mismatch(record, other, kGraph), message);
    };
    CHECK(differs({"10.17.0", "8.6", "A card", "Linux x86_64"}, "TensorRT 10.16.1.11, here is 10.17.0"));
    CHECK(differs({"10.16.1", "8.9", "A card", "Linux x86_64"}, "compute capability"));
    CHECK(differs({"10.16.1", "8.6", "Another card", "Linux x86_64"}, "built on A card"));
    CHECK(differs({"10.16.1", "8.6", "A card", "Linux aarch64"}, "system"));
    CHECK(contains(ke::mismatch(record, kHere, std::string(64, '0')), "another graph"));
}

void the_engine_of_this_machine_is_found() {
    const TemporaryFolder folder;
    ke::Bundle bundle;
    bundle.path = folder;
    bundle.files["model.onnx"] = kGraph;
    std::string message;
    CHECK(status_of([&] { ke::find_engine(bundle, ke::Precision::fp32, kHere); }, &message) == KDX_ERROR_BACKEND);
    CHECK(contains(message, "no engine") && contains(message, "kdx build-engine"));
    // A folder whose name begins with a dot is an engine under construction, or what a killed build
    // left behind.
    const auto engines = folder / "engines";
    fs::create_directories(engines / ".fp32.part");
    std::ofstream(engines / ".fp32.part" / "engine.json") << record_text();
    CHECK(status_of([&] { ke::find_engine(bundle, ke::Precision::fp32, kHere); }, &message) == KDX_ERROR_BACKEND);
    CHECK(contains(message, "no engine"));
    fs::rename(engines / ".fp32.part", engines / "fp32");
    CHECK(ke::find_engine(bundle, ke::Precision::fp32, kHere).plan == engines / "fp32" / "model.plan");
}

// A record that cannot be read hides no other engine, and is named where there is none.
void an_unreadable_record_hides_no_engine() {
    const TemporaryFolder folder;
    ke::Bundle bundle;
    bundle.path = folder;
    bundle.files["model.onnx"] = kGraph;
    const auto engines = folder / "engines";
    fs::create_directories(engines / "a");
    fs::create_symlink("engine.json", engines / "a" / "engine.json");  // it leads back to itself
    const auto find = [&] { return ke::find_engine(bundle, ke::Precision::fp32, kHere); };
    std::string message;
    CHECK(status_of(find, &message) == KDX_ERROR_BACKEND);
    CHECK(contains(message, "engines/a: '") && contains(message, "cannot be read: "));
    // A file of this system ends before its size says, whoever reads it.
    fs::remove(engines / "a" / "engine.json");
    fs::create_symlink("/sys/devices/system/cpu/online", engines / "a" / "engine.json");
    fs::create_directories(engines / "b");
    std::ofstream(engines / "b" / "engine.json") << record_text();
    CHECK(status_of(find, &message) == KDX_OK && find().plan == engines / "b" / "model.plan");
    fs::remove_all(engines);
    std::ofstream(engines) << "no folder";
    CHECK(status_of(find, &message) != KDX_OK && contains(message, "Not a directory"));
}

// The command in the message replaces what is in the way, by an engine of the same batches and level.
void the_command_that_builds_an_engine_is_complete() {
    const TemporaryFolder folder;
    ke::Bundle bundle;
    bundle.path = folder;
    bundle.files["model.onnx"] = kGraph;
    const auto command = [&] {
        std::string message;
        CHECK(status_of([&] { ke::find_engine(bundle, ke::Precision::fp32, kHere); }, &message) == KDX_ERROR_BACKEND);
        return message.substr(message.find("--flavour"));
    };
    CHECK(!contains(command(), "--batch") && !contains(command(), "--force"));
    const auto write = [&](const char *name, const std::string &text) {
        fs::create_directories(folder / "engines" / name);
        std::ofstream(folder / "engines" / name / "engine.json") << text;
    };
    const auto other = replaced(record_text(), "10.16.1.11", "10.3.0.26");
    write("tensorrt-8.7-fp32", other);
    CHECK(contains(command(), "--flavour tensorrt --batch 1,8") && !contains(command(), "--force"));
    write("tensorrt-8.6-fp32", replaced(replaced(other, "[1, 8]", "[1]"), "\"schema\"", "\"level\": 5, \"schema\""));
    CHECK(contains(command(), "--flavour tensorrt --level 5 --force"));
    write("tensorrt-8.6-fp32", "{}");
    CHECK(contains(command(), "--flavour tensorrt --batch 1,8 --force"));
}

}  // namespace

int engines() {
    records_are_checked();
    engines_are_compared_with_the_machine();
    the_engine_of_this_machine_is_found();
    an_unreadable_record_hides_no_engine();
    the_command_that_builds_an_engine_is_complete();
    return status();
}
