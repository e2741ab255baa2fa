#include "open_detector.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "error.h"
#include "open_bundle.h"
#include "verify.h"

namespace kdx::embed {

namespace {

const BackendKind &backend_named(const char *name) {
    const auto &kinds = backend_kinds();
    if (kinds.empty()) throw Failure(KDX_ERROR_BACKEND, "this library was built without any runtime");
    if (!name || !*name) return kinds.front();
    const auto runtime = runtime_named(name);
    std::string known;
    for (const auto &kind : kinds) {
        if (runtime == kind.runtime) return kind;
        known += std::string(known.empty() ? "" : ", ") + name_of(kind.runtime);
    }
    throw Failure(KDX_ERROR_BACKEND, std::string("there is no backend '") + name + "' in this library",
                  {known, "", ""});
}

bool runs(const BackendKind &kind, Precision precision) {
    return std::find(kind.precisions.begin(), kind.precisions.end(), precision) != kind.precisions.end();
}

// Checks a precision that the caller asked for.
Precision requested_precision(const Bundle &bundle, const BackendKind &kind, const char *name) {
    const auto precision = precision_named(name);
    if (!precision || !runs(kind, *precision)) {
        std::string known;
        for (const auto each : kind.precisions) known += std::string(known.empty() ? "" : " or ") + name_of(each);
        throw Failure(KDX_ERROR_BACKEND,
                      std::string("the backend '") + name_of(kind.runtime) + "' runs no " + name + " graphs",
                      {known, "", ""});
    }
    bundle.graph_of(*precision);
    if (!kind.offers(*precision))
        throw Failure(KDX_ERROR_BACKEND, std::string("this machine does not compute ") + name,
                      {"", "", "use another precision"});
    return *precision;
}

// Returns the fastest precision that can be run; without any engine, the one to build it in.
Precision fastest_precision(const Bundle &bundle, const BackendKind &kind, int device) {
    std::vector<Precision> offered;
    for (const auto precision : kind.precisions)
        if (bundle.has(precision) && bundle.is_calibrated_like_fp32(precision, kind.runtime) && kind.offers(precision))
            offered.push_back(precision);
    const auto found = std::find_if(offered.begin(), offered.end(),
                                    [&](Precision precision) { return kind.holds(bundle, precision, device); });
    if (found != offered.end()) return *found;
    return offered.empty() ? Precision::fp32 : offered.front();
}

// Refuses options that would have no effect.
void require_used(const kdx_options &options, const BackendKind &kind) {
    const auto refuse = [&](const std::string &option, const std::string &expected, const std::string &received,
                            const std::string &fix) {
        throw Failure(KDX_ERROR_ARGUMENT,
                      std::string("the backend '") + name_of(kind.runtime) + "' does not use " + option,
                      {expected, received, fix});
    };
    if (!kind.is_on_gpu && options.device)
        refuse("device: it runs on the CPU", "0", std::to_string(options.device),
               "leave device at 0, or set backend to \"tensorrt\" for a GPU");
    if (kind.is_on_gpu && options.threads)
        refuse("threads: it runs on the GPU", "0", std::to_string(options.threads), "leave threads at 0");
    if (kind.is_on_gpu && options.cache_dir && *options.cache_dir)
        refuse("cache_dir: its engines are in the bundle", "NULL", options.cache_dir, "leave cache_dir out");
}

// Prepares the batch sizes that were asked for, and returns every size in which the graph will run.
std::set<std::size_t> prepare_batches(const Detector &detector, const kdx_options &options) {
    std::set<std::size_t> sizes = {1};
    const auto prepare = [&](std::size_t count) {
        for (const auto size : detector.prepare(count)) sizes.insert(size);
    };
    if (detector.bundle().tiling.is_set()) prepare(1);  // the tiles of one frame
    for (std::size_t i = 0; i < options.batch_size_count; ++i)
        prepare(static_cast<std::size_t>(options.batch_sizes[i]));
    return sizes;
}

}  // namespace

std::unique_ptr<Detector> open_detector(const std::string &path, const kdx_options &options,
                                        const std::vector<PublicKey> *keys) {
    auto bundle = open_bundle(std::filesystem::u8path(path), keys);
    const auto &kind = backend_named(options.backend);
    require_used(options, kind);
    const bool is_requested = options.precision && *options.precision;
    BackendOptions chosen;
    chosen.precision = is_requested ? requested_precision(bundle, kind, options.precision)
                                    : fastest_precision(bundle, kind, options.device);
    if (options.cache_dir) chosen.cache = std::filesystem::u8path(options.cache_dir);
    chosen.threads = options.threads, chosen.device = options.device, chosen.is_signed = keys != nullptr;
    auto graph = bundle.check_files(Bundle::graph_name(chosen.precision));
    auto detector = std::make_unique<Detector>(std::move(bundle), kind, std::move(graph), chosen);
    const auto sizes = prepare_batches(*detector, options);
    require_reference(*detector, {sizes.begin(), sizes.end()});
    return detector;
}

}  // namespace kdx::embed
