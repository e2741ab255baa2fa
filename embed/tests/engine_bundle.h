// A bundle with an engine of the fakes in fake_tensorrt/, made from a bundle without one.
#pragma once

#include <sys/utsname.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fake.h"
#include "files.h"
#include "golden.h"
#include "json_reading.h"
#include "open_bundle.h"
#include "sha256.h"
#include "support.h"

// The largest batches of the engine's two profiles.
constexpr std::size_t kSmall = 2, kLarge = 32;

// A copy of a bundle. Its reference is replaced by the answers of the fake engine to the golden
// images.
class EngineBundle : public BundleCopy {
public:
    explicit EngineBundle(const std::filesystem::path &source)
        : BundleCopy(source),
          bundle_(kdx::embed::open_bundle(*this)),
          index_(read("bundle.json")) {
        write_reference();
        write("bundle.json", index_);
        write_engine(kdx::embed::Precision::fp32);
    }

    bool has(kdx::embed::Precision precision) const { return bundle_.has(precision); }

    // Adds an engine of the bundle's graph in a precision, whose map has so many more rows than the
    // bundle's.
    void write_engine(kdx::embed::Precision precision, int more_rows = 0) const {
        const auto &b = bundle_;
        std::string plan;  // the text that the fake engine reads
        const auto rows = b.map_height + more_rows;
        for (const auto size : {b.height, b.width, b.channels, rows, b.map_width, int{kSmall}, int{kLarge}})
            plan += std::to_string(size) + ' ';
        utsname system{};
        uname(&system);
        const auto text = [](const std::string &value) { return '"' + value + '"'; };
        const std::string name = kdx::embed::name_of(precision);
        const auto record =
            R"({"schema": 1, "precision": )" + text(name) + R"(, "batches": [)" + std::to_string(kSmall) + ", " +
            std::to_string(kLarge) + R"(], "fingerprint": {"flavour": "tensorrt", "tensorrt": "10.16.1.11",
                "compute_capability": "8.6", "gpu": "A card", "system": )" +
            text(std::string(system.sysname) + ' ' + system.machine) + R"(}, "onnx_sha256": )" +
            text(b.hash_of(kdx::embed::Bundle::graph_name(precision))) + R"(, "plan_sha256": )" +
            text(kdx::embed::hexadecimal(kdx::embed::sha256_of(plan))) + '}';
        std::filesystem::create_directories(*this / "engines" / name);
        write("engines/" + name + "/model.plan", plan);
        write("engines/" + name + "/engine.json", record);
    }

    // Gives INT8 the threshold of FP32 in TensorRT.
    void write_int8_threshold() const {
        auto index = kdx::embed::parse_json(index_);
        auto &own = index["runtime_thresholds"]["int8"]["tensorrt"] = index["threshold"];
        own["graph_sha256"] = bundle_.hash_of("model.int8.onnx");
        write("bundle.json", index.dump());
    }

private:
    std::string read(const std::string &name) const { return kdx::embed::read_file(*this / name); }

    void write(const std::string &name, const std::string &content) const {
        std::ofstream(*this / name, std::ios::binary) << content;
    }

    void write_reference() {
        const auto golden = kdx::embed::read_golden(bundle_);
        const auto image = golden.images.size() / golden.count, map = golden.maps.size() / golden.count;
        std::vector<float> scores, maps;
        for (std::size_t i = 0; i < golden.count; ++i) {
            scores.push_back(fake::score_of(golden.images.data() + i * image, image));
            maps.insert(maps.end(), map, scores.back());
        }
        replace_values("golden/anomaly_score.npy", scores);
        replace_values("golden/anomaly_map.npy", maps);
    }

    // Replaces the values of an .npy file and its hash. The header in front of the values stays.
    void replace_values(const std::string &name, const std::vector<float> &values) {
        auto content = read(name);
        const auto bytes = values.size() * sizeof(float);
        content.replace(content.size() - bytes, bytes, reinterpret_cast<const char *>(values.data()), bytes);
        write(name, content);
        index_ = replaced(index_, bundle_.hash_of(name), kdx::embed::hexadecimal(kdx::embed::sha256_of(content)));
    }

    const kdx::embed::Bundle bundle_;
    std::string index_;
};
