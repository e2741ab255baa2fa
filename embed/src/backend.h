// What runs a bundle's graph: one interface, and one file for each runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "precision.h"

namespace kdx::embed {

// Receives the answer for one image of a batch. The map is memory of the runtime and valid only
// during the call.
using Sink = std::function<void(std::size_t index, float score, const float *map)>;

struct BackendOptions {
    Precision precision = Precision::fp32;
    std::filesystem::path cache;  // folder for compiled models; empty: they are not kept
    int threads = 0;
    int device = 0;
    bool is_signed = false;  // a signature was required, so no other user may write to the cache
};

class Backend {
public:
    virtual ~Backend() = default;
    virtual Runtime runtime() const = 0;
    // Largest batch of one inference.
    virtual std::size_t max_batch() const = 0;
    // The backend that runs the bundle's graph on the graph's own input: for a bundle with tiles,
    // the one for the tiles.
    virtual Backend &graph() { return *this; }
    // Returns the sizes of the batches in which the graph runs for `count` images.
    virtual std::vector<std::size_t> graph_batches(std::size_t count) const { return {count}; }
    // Prepares everything that the first batch of `count` images would wait for, such as compiling
    // a model; it is kept as long as the backend lives. Throws Failure (KDX_ERROR_BACKEND).
    virtual void prepare(std::size_t count) = 0;
    // Runs packed images (count, height, width, channels). Any number of threads may call it at
    // once. Throws Failure (KDX_ERROR_BACKEND); the next call may succeed.
    virtual void run(const std::uint8_t *images, std::size_t count, const Sink &sink) = 0;
    // Says what of the options has no effect on this machine; empty for nothing.
    virtual std::string remark() const { return {}; }
};

struct BackendKind {
    Runtime runtime;
    // The precisions in which it runs graphs, the fastest first.
    std::vector<Precision> precisions;
    // Whether this machine computes a precision.
    std::function<bool(Precision precision)> offers;
    // Whether a bundle holds what the backend runs of a precision on a device: an engine that was
    // built for it, or the graph alone. Throws Failure (KDX_ERROR_BUNDLE) as find_engine() does.
    std::function<bool(const Bundle &bundle, Precision precision, int device)> holds;
    // graph: the content of the precision's ONNX file, the bytes that were hashed.
    std::function<std::unique_ptr<Backend>(const Bundle &bundle, std::string graph, const BackendOptions &options)>
        open;
    // Whether it runs on a GPU and so takes a device, but neither threads nor a cache.
    bool is_on_gpu = false;
};

// The backends that were compiled in, in order of preference.
const std::vector<BackendKind> &backend_kinds();

BackendKind openvino_kind();
BackendKind tensorrt_kind();

}  // namespace kdx::embed
