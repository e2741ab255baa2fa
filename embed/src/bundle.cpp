#include "bundle.h"

#include <algorithm>

#include "error.h"
#include "files.h"
#include "plain_graph.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;

namespace {

constexpr const char *kCopyAgain = "copy the bundle again, or export it again";

bool is_graph(const std::string &name) { return fs::u8path(name).extension() == ".onnx"; }

// Follows symbolic links, which a name alone does not show.
bool is_inside(const fs::path &root, const fs::path &file) {
    std::error_code error;
    const auto base = fs::weakly_canonical(root, error), target = fs::weakly_canonical(file, error);
    if (error) return false;
    const auto [left, right] = std::mismatch(base.begin(), base.end(), target.begin(), target.end());
    return left == base.end();
}

Bundle::ThresholdKey key_of(Precision precision, std::optional<Runtime> runtime) {
    return {precision, has_own_threshold(precision) ? runtime : std::nullopt};
}

}  // namespace

std::string Bundle::graph_name(Precision precision) {
    const bool is_fp32 = precision == Precision::fp32 || precision == Precision::bf16;
    return is_fp32 ? "model.onnx" : std::string("model.") + name_of(precision) + ".onnx";
}

bool Bundle::has(Precision precision) const {
    return std::find(precisions.begin(), precisions.end(), precision) != precisions.end();
}

std::pair<std::string, std::string> Bundle::reference_files(Precision precision) const {
    const std::string folder = is_own_reference(precision) ? "golden/int8/" : "golden/";
    return {folder + "anomaly_map.npy", folder + "anomaly_score.npy"};
}

fs::path Bundle::graph_of(Precision precision) const {
    if (!has(precision)) {
        std::string held;
        for (const auto each : precisions) held += std::string(held.empty() ? "" : " or ") + name_of(each);
        throw Failure(
            KDX_ERROR_BUNDLE, "'" + path.string() + "' holds no " + name_of(precision) + " graph",
            {held, "", std::string("export it again: kdx export RUN --precision fp32,") + name_of(precision)});
    }
    return path / graph_name(precision);
}

bool Bundle::is_calibrated_like_fp32(Precision precision, Runtime runtime) const {
    return !threshold_of(Precision::fp32).is_set() || threshold_of(precision, runtime).is_set();
}

Threshold Bundle::threshold_of(Precision precision, std::optional<Runtime> runtime) const {
    const auto found = calibrations.find(key_of(precision, runtime));
    const bool holds = found != calibrations.end() && found->second.changed_since == Change::none;
    return holds ? found->second.threshold : Threshold{};
}

Change Bundle::changed_since(Precision precision, std::optional<Runtime> runtime) const {
    const auto found = calibrations.find(key_of(precision, runtime));
    return found == calibrations.end() ? Change::none : found->second.changed_since;
}

Change Bundle::invalidated_by(Precision precision, Runtime runtime) const {
    if (threshold_of(precision, runtime).is_set()) return Change::none;
    const auto own = changed_since(precision, runtime);
    return own == Change::none ? changed_since(Precision::fp32) : own;
}

std::string Bundle::why_undecided(Precision precision, Runtime runtime) const {
    if (threshold_of(precision, runtime).is_set()) return {};
    const auto change = invalidated_by(precision, runtime);
    if (change != Change::none)
        return std::string(change == Change::level_map ? "the level map" : "the region of interest") +
               " was changed after the calibration: every verdict is undecided until kdx calibrate";
    if (!threshold_of(Precision::fp32).is_set()) return {};
    return std::string(name_of(precision)) + " has no threshold for " + name_of(runtime) +
           ": every verdict is undecided until kdx calibrate on a machine with " + name_of(runtime);
}

std::string Bundle::doubt_about(Precision precision, Runtime runtime) const {
    if (precision != Precision::int8 || is_int8_runtime_known || !threshold_of(precision, runtime).is_set()) return {};
    return "the int8 threshold was calibrated by an older kdx, which did not record which runtime measured it: "
           "calibrate again";
}

fs::path Bundle::file_of(const std::string &name) const {
    const auto file = path / fs::u8path(name);
    std::error_code error;
    const bool leads_nowhere = fs::is_symlink(file, error) && !fs::is_regular_file(file, error);
    if (leads_nowhere && error != std::errc::permission_denied)  // also one that leads back to itself
        throw Failure(KDX_ERROR_BUNDLE, "'" + name + "' in '" + path.string() + "' is a link that leads to no file",
                      {"", "", kCopyAgain});
    if (has_file(file)) return file;
    throw Failure(KDX_ERROR_BUNDLE, "'" + name + "' is missing from '" + path.string() + "'", {"", "", kCopyAgain});
}

void Bundle::require_hash(const std::string &name, const std::string &received) const {
    if (received == hash_of(name)) return;
    const auto what = "'" + name + "' in '" + path.string() + "' ";
    // The caches of model hubs hold links to content elsewhere. Such a link is accepted if the
    // content is right.
    if (!is_inside(path, path / fs::u8path(name)))
        throw Failure(KDX_ERROR_BUNDLE,
                      what + "is a link to a file outside the bundle, with other content than was exported",
                      {"sha256 " + hash_of(name), "sha256 " + received,
                       "copy the bundle again with what its links lead to (cp -rL), or export it again"});
    throw Failure(KDX_ERROR_BUNDLE, what + "was altered",
                  {"sha256 " + hash_of(name), "sha256 " + received, kCopyAgain});
}

std::string Bundle::read(const std::string &name) const {
    auto content = read_file(file_of(name));
    require_hash(name, hexadecimal(sha256_of(content)));
    if (is_graph(name)) require_plain_graph(content, name, path);
    return content;
}

std::string Bundle::check_files(const std::string &wanted) const {
    std::string kept;
    for (const auto &[name, hash] : files) {
        if (!is_graph(name)) {
            require_hash(name, sha256_of_file(file_of(name)));
            continue;
        }
        auto content = read(name);  // the hashed bytes are also checked as a graph
        if (name == wanted) kept = std::move(content);
    }
    return kept;
}

}  // namespace kdx::embed
