// selftests: what the self-test finds of a bundle that changes while it is open, with the fakes of
// TensorRT and CUDA, through the exported functions.
#include <filesystem>
#include <fstream>
#include <kdx/kdx.hpp>
#include <string>

#include "check.h"
#include "engine_bundle.h"
#include "files.h"
#include "internals.h"
#include "test_bundle.h"

namespace fs = std::filesystem;

int selftests() {
    const EngineBundle engines(test_bundle());
    const fs::path &path = engines;
    const auto index = kdx::embed::read_file(path / "bundle.json");
    kdx::Options options;
    options.backend = "tensorrt", options.precision = "fp32";
    kdx::Detector detector(path.string(), options);
    const auto said = [&] {
        const auto report = detector.selftest(0, 90, 10);
        CHECK(report.passed == 0 && report.images == 0);
        return std::string(report.said);
    };
    CHECK(detector.selftest(0, 90, 10).passed == 1);

    // Another threshold than the one that decides, and none.
    append_space(path / "bundle.json");
    CHECK(contains(said(), "was changed since the bundle was opened") && contains(said(), "fix: open it again"));
    fs::remove(path / "bundle.json");
    CHECK(contains(said(), "bundle.json is missing"));
    std::ofstream(path / "bundle.json", std::ios::binary) << index;
    CHECK(detector.selftest(0, 90, 10).passed == 1);
    // A signature of another bundle.json.
    std::ofstream(path / "bundle.sig") << "{}";
    CHECK(contains(said(), "bundle.sig' is not valid"));
    fs::remove(path / "bundle.sig");

    // The report has room for the fix, and the message of the thread for all.
    append_space(path / "golden/anomaly_map.npy");
    const auto found = kdx::embed::sha256_of_file(path / "golden/anomaly_map.npy");
    CHECK(contains(said(), "was altered") && contains(said(), "\n  fix: copy the bundle again, or export it again"));
    CHECK(!contains(said(), found) && contains(kdx_last_error(), "received: sha256 " + found));
    return status();
}
