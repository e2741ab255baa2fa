// What runs a bundle's graph. One file per runtime behind one interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

// Takes the answer for one image of a batch. The map is the runtime's memory: it is valid during the call alone.
using Sink = std::function<void(std::size_t index, float score, const float *map)>;

struct BackendOptions {
    std::string precision;
    std::filesystem::path cache;  // empty: compiled models are not kept
    int threads = 0;
    int device = 0;
    bool is_signed = false;  // a signature was required: the cache must be this user's alone
};

class Backend {
public:
    virtual ~Backend() = default;
    virtual const char *name() const = 0;
    // Largest batch that goes through at once.
    virtual std::size_t max_batch() const = 0;
    // What runs the bundle's graph itself, on the graph's own input: below the tiles, where there are any.
    virtual Backend &graph() { return *this; }
    // The batches in which the graph is run for so many images at once, by size.
    virtual std::vector<std::size_t> graph_batches(std::size_t count) const { return {count}; }
    // Does what the first batch of so many images would have to wait for, once for as long as this lives. Throws Failure
    // (KDX_ERROR_BACKEND).
    virtual void prepare(std::size_t count) = 0;
    // Runs images (count, height, width, channels), packed. Any number of threads may call it at once. Throws Failure
    // (KDX_ERROR_BACKEND); the next call may succeed.
    virtual void run(const std::uint8_t *images, std::size_t count, const Sink &sink) = 0;
};

struct BackendKind {
    const char *name;
    // In which it runs graphs, the fastest first.
    std::vector<std::string> precisions;
    // Whether this machine computes a precision.
    std::function<bool(const std::string &precision)> offers;
    // graph: the content of the precision's ONNX file, the very bytes that were hashed.
    std::function<std::unique_ptr<Backend>(const Bundle &bundle, std::string graph, const BackendOptions &options)> open;
};

// The runtimes that were compiled in, in order of preference.
const std::vector<BackendKind> &backend_kinds();

BackendKind openvino_kind();
BackendKind tensorrt_kind();

}  // namespace kdx::embed
