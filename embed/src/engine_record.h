// engine.json: the record of a TensorRT plan in a bundle, and whether the plan may run on this
// machine. The counterpart of kdx/bundle/engine_record.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

// The properties of a machine that engine.json records of the machine on which a plan was built.
struct Machine {
    std::string tensorrt;            // 10.16.1
    std::string compute_capability;  // 9.0
    std::string gpu;                 // the card's name
    std::string system;              // Linux x86_64
};

struct EngineRecord {
    std::filesystem::path plan;
    std::string flavour, tensorrt, compute_capability, gpu, system, precision, onnx_sha256, plan_sha256;
    std::vector<int> batches;  // largest batch of each optimisation profile, ascending
    int level = 3;             // optimisation level of the builder
};

// Reads a record from its text; throws Failure (KDX_ERROR_BACKEND).
EngineRecord parse_engine_record(const std::string &text, const std::filesystem::path &folder);

// Says why a plan may not run on a machine; empty if it may.
std::string mismatch(const EngineRecord &record, const Machine &machine, const std::string &onnx_sha256);

// Returns the engine of a bundle's graph that runs on a machine. Throws Failure (KDX_ERROR_BACKEND)
// if there is none, with a reason for each engine in the bundle and the command that builds one.
// Throws Failure (KDX_ERROR_BUNDLE) if a signature was required of the bundle and does not cover an
// engine in it.
EngineRecord find_engine(const Bundle &bundle, Precision precision, const Machine &machine);

// Reads a plan and checks its hash; throws Failure (KDX_ERROR_BACKEND).
std::string read_plan(const EngineRecord &record);

}  // namespace kdx::embed
