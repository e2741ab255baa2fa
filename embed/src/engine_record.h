// engine.json: what belongs to a TensorRT plan in a bundle, and whether it may run here. See kdx/bundle/engine_record.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

// What a machine has, as engine.json says what a plan was built for.
struct Machine {
    std::string tensorrt;            // 10.16.1
    std::string compute_capability;  // 9.0
    std::string gpu;                 // the card's name
    std::string system;              // Linux x86_64
};

struct EngineRecord {
    std::filesystem::path plan;
    std::string flavour, tensorrt, compute_capability, gpu, system, precision, onnx_sha256, plan_sha256;
    std::vector<int> batches;  // of each optimisation profile, which accepts 1 up to it; ascending
};

// Reads a record from its text; throws Failure (KDX_ERROR_BACKEND).
EngineRecord parse_engine_record(const std::string &text, const std::filesystem::path &folder);

// Says why a plan may not run here; empty where it may.
std::string mismatch(const EngineRecord &record, const Machine &machine, const std::string &onnx_sha256);

// Returns the engine of a bundle's graph that runs here; throws Failure (KDX_ERROR_BACKEND) with a reason for each that
// does not, and the command that builds one. Throws Failure (KDX_ERROR_BUNDLE) where a signature was required of the bundle and
// does not cover an engine in it.
EngineRecord find_engine(const Bundle &bundle, const std::string &precision, const Machine &machine);

// Reads a plan and checks its hash; throws Failure (KDX_ERROR_BACKEND).
std::string read_plan(const EngineRecord &record);

}  // namespace kdx::embed
