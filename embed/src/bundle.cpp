#include "bundle.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "error.h"
#include "plain_graph.h"
#include "position.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kSchema = 2;
constexpr const char *kIndex = "bundle.json";
// No camera has more; and products of sizes stay far from overflowing.
constexpr int kLargestSide = 1 << 15;
constexpr std::size_t kMostTiles = 4096;  // along an axis
// BF16 and INT8 move scores: each has a threshold of its own. FP16 shares FP32's.
const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8"};

bool has_own_threshold(const std::string &precision) { return precision == "bf16" || precision == "int8"; }

[[noreturn]] void refuse(const fs::path &path, const std::string &why, const std::string &fix) {
    throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' " + why + "\n  fix: " + fix);
}

int side_of(const json &value) {
    const auto found = value.get<std::int64_t>();
    if (!value.is_number_integer() || found < 1 || found > kLargestSide) throw Failure(KDX_ERROR_BUNDLE, "a size is out of range");
    return static_cast<int>(found);
}

double share_of(const json &value) {
    const auto found = value.get<double>();
    if (!(found >= 0 && found <= 1)) throw Failure(KDX_ERROR_BUNDLE, "a share is out of range");
    return found;
}

double number_of(const json &record, const char *name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_null() ? kNone : found->get<double>();
}

bool is_hash(const std::string &text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// A relative POSIX path that stays where it is: no root, no way up, nothing that another system reads otherwise.
bool is_contained(const std::string &name) {
    const std::string forbidden("\\:\0", 3);
    if (name.empty() || name.front() == '/' || name.find_first_of(forbidden) != std::string::npos) return false;
    for (const auto &part : fs::path(name))
        if (part == "..") return false;
    return true;
}

bool is_graph(const std::string &name) { return fs::u8path(name).extension() == ".onnx"; }

// Also follows symbolic links, which a name alone does not show.
bool is_inside(const fs::path &root, const fs::path &file) {
    std::error_code error;
    const auto base = fs::weakly_canonical(root, error), found = fs::weakly_canonical(file, error);
    if (error) return false;
    const auto [left, right] = std::mismatch(base.begin(), base.end(), found.begin(), found.end());
    return left == base.end();
}

Threshold threshold_from(const json &record, const Bundle &bundle, const std::string &precision) {
    Threshold threshold{record.at("score").get<double>(), number_of(record, "pixel"), kNone};
    if (record.contains("review") && !record["review"].is_null())
        threshold.review = record["review"].at("score").get<double>();
    if (!std::isfinite(threshold.score)) throw Failure(KDX_ERROR_BUNDLE, "a threshold is not finite");
    const auto graph = Bundle::graph_name(has_own_threshold(precision) ? precision : "fp32");
    if (record.at("graph_sha256").get<std::string>() != bundle.hash_of(graph))
        throw Failure(KDX_ERROR_BUNDLE, "the threshold was calibrated on another graph");
    return threshold;
}

void read_frame_limits(Bundle &bundle, const json &record) {
    auto &limits = bundle.frame_limits;
    limits.dark = share_of(record.at("dark")), limits.bright = share_of(record.at("bright"));
    if (!record.contains("channels")) return;
    for (const auto &channel : record["channels"])
        limits.channels.push_back({number_of(channel, "darkest"), number_of(channel, "brightest"), number_of(channel, "contrast"),
                                   number_of(channel, "structure"), number_of(channel, "roughness"), number_of(channel, "lit")});
    if (!limits.channels.empty() && limits.channels.size() != static_cast<std::size_t>(bundle.channels))
        throw Failure(KDX_ERROR_BUNDLE, "its frame limits are of another number of channels");
}

void read_input(Bundle &bundle, const json &manifest) {
    const auto &input = manifest.at("input");
    bundle.height = side_of(input.at("height"));
    bundle.width = side_of(input.at("width"));
    bundle.channels = input.value("channels", 3);
    const auto order = input.value("channel_order", std::string("rgb"));
    if ((bundle.channels != 1 && bundle.channels != 3) || (order != "rgb" && order != "bgr"))
        throw Failure(KDX_ERROR_BUNDLE, "its input is of no known layout");
    bundle.bgr = order == "bgr" && bundle.channels == 3;
    const auto &size = manifest.at("map_size");
    if (!size.is_array() || size.size() != 2) throw Failure(KDX_ERROR_BUNDLE, "its map has no size");
    bundle.map_height = side_of(size[0]);
    bundle.map_width = side_of(size[1]);
    bundle.max_batch = side_of(manifest.at("max_batch"));
    bundle.field_of_view = manifest.contains("field_of_view") ? share_of(manifest["field_of_view"]) : 1.0;
    if (manifest.contains("frame_limits")) read_frame_limits(bundle, manifest["frame_limits"]);
}

// Where tiles begin along an axis: they cover the frame, and meet where both are believed.
std::vector<int> read_starts(const json &values, const Tiling &tiling, int frame, int tile, int scale) {
    const auto starts = values.get<std::vector<int>>();
    bool fits = !starts.empty() && starts.size() <= kMostTiles && starts.front() == 0 && starts.back() == frame - tile;
    for (std::size_t i = 0; fits && i < starts.size(); ++i) {
        fits = starts[i] % scale == 0;
        if (i > 0) fits = fits && starts[i] > starts[i - 1] && starts[i] - starts[i - 1] <= tile - 2 * tiling.halo;
    }
    if (!fits || frame % scale || tiling.overlap % scale || tiling.halo % scale)
        throw Failure(KDX_ERROR_BUNDLE, "its tiles do not cover the frame");
    return starts;
}

void read_tiling(Bundle &bundle, const json &manifest) {
    bundle.camera_height = bundle.height, bundle.camera_width = bundle.width;
    bundle.camera_map_height = bundle.map_height, bundle.camera_map_width = bundle.map_width;
    if (!manifest.contains("tiling") || manifest["tiling"].is_null()) return;
    const auto &record = manifest["tiling"];
    auto &tiling = bundle.tiling;
    tiling.overlap = record.at("overlap").get<int>(), tiling.halo = record.at("halo").get<int>();
    tiling.batch = record.contains("batch") ? side_of(record["batch"]) : 8;
    if (bundle.height % bundle.map_height || bundle.width % bundle.map_width || tiling.halo < 0 ||
        tiling.halo > kLargestSide || tiling.overlap < 2 * tiling.halo || tiling.overlap >= kLargestSide)
        throw Failure(KDX_ERROR_BUNDLE, "its tiles do not fit together");
    const int down = bundle.height / bundle.map_height, across = bundle.width / bundle.map_width;
    bundle.camera_height = side_of(record.at("frame").at(0)), bundle.camera_width = side_of(record.at("frame").at(1));
    tiling.rows = read_starts(record.at("rows"), tiling, bundle.camera_height, bundle.height, down);
    tiling.columns = read_starts(record.at("columns"), tiling, bundle.camera_width, bundle.width, across);
    bundle.camera_map_height = bundle.camera_height / down, bundle.camera_map_width = bundle.camera_width / across;
}

void read_files(Bundle &bundle, const json &manifest) {
    for (const auto &[name, hash] : manifest.at("files").items()) {
        if (!is_contained(name)) throw Failure(KDX_ERROR_BUNDLE, "it names a file outside the bundle: '" + name + "'");
        bundle.files[name] = hash.get<std::string>();
        if (!is_hash(bundle.files[name])) throw Failure(KDX_ERROR_BUNDLE, "'" + name + "' has no SHA-256");
    }
    bundle.golden = manifest.at("golden").get<std::vector<std::string>>();
    bundle.precisions = {"fp32"};
    if (manifest.contains("variants"))
        for (const auto &[precision, variant] : manifest["variants"].items()) {
            if (std::find(kPrecisions.begin() + 1, kPrecisions.end(), precision) == kPrecisions.end())
                throw Failure(KDX_ERROR_BUNDLE, "it holds a graph of no known precision");
            bundle.precisions.push_back(precision);
        }
    std::vector<std::string> required = {"golden/anomaly_map.npy", "golden/anomaly_score.npy", "training_images.json"};
    for (const auto &name : bundle.golden) required.push_back("golden/" + name);
    for (const auto &precision : bundle.precisions) required.push_back(Bundle::graph_name(precision));
    for (const auto &name : required)
        if (!bundle.files.count(name)) throw Failure(KDX_ERROR_BUNDLE, std::string(kIndex) + " does not list '" + name + "'");
}

// The hash that a record holds under a name, or nothing.
std::string recorded_hash(const json &record, const char *name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_null() ? std::string() : found->get<std::string>();
}

// FP32 and FP16 share a threshold in every runtime.
Bundle::ByRuntime key_of(const std::string &precision, const std::string &runtime) {
    return {precision, has_own_threshold(precision) ? runtime : std::string()};
}

// A threshold decides in the region of interest and with the level map that it was calibrated with, and with no others.
void add_threshold(Bundle &bundle, const json &record, const std::string &precision, const std::string &runtime) {
    const auto threshold = threshold_from(record, bundle, precision);
    const auto level = record.find("level");
    const auto fitted = level == record.end() || level->is_null() ? std::string() : level->at("sha256").get<std::string>();
    const auto key = key_of(precision, runtime);
    if (recorded_hash(record, "roi_sha256") != (bundle.has_roi() ? bundle.hash_of(kRoi) : std::string()))
        bundle.stale[key] = "the region of interest";
    else if (fitted != (bundle.has_level() ? bundle.hash_of(kLevel) : std::string()))
        bundle.stale[key] = "the level map";
    else
        bundle.thresholds[key] = threshold;
}

void read_rule(Bundle &bundle, const json &manifest) {
    const auto spec = manifest.find("pair_spec");
    if (spec == manifest.end() || !spec->is_object()) return;
    bundle.answer_limits = answer_limits(spec->dump(), static_cast<std::size_t>(bundle.map_height) * bundle.map_width);
    const auto join = spec->value("join", std::string("single")), rule = spec->value("score", std::string());
    // The other joins multiply two maps, or score one that is not returned.
    if ((join == "single" || join == "score_first") && (rule == "max" || rule == "sum")) bundle.score_rule = rule;
}

void read_thresholds(Bundle &bundle, const json &manifest) {
    if (manifest.contains("threshold") && !manifest["threshold"].is_null())
        for (const auto *precision : {"fp32", "fp16"}) add_threshold(bundle, manifest["threshold"], precision, "");
    const auto own = manifest.value("runtime_thresholds", json::object());
    for (const auto &[precision, by_runtime] : own.items())
        for (const auto &[runtime, record] : by_runtime.items())
            if (has_own_threshold(precision) && bundle.has(precision)) add_threshold(bundle, record, precision, runtime);
    // Schema 1 had one for all runtimes, which counts for those that may have measured it: only OpenVINO computes in BF16.
    const auto older = manifest.value("thresholds", json::object());
    for (const auto &[precision, record] : older.items()) {
        if (!has_own_threshold(precision) || !bundle.has(precision) || own.contains(precision)) continue;
        add_threshold(bundle, record, precision, "openvino");
        if (precision != "int8") continue;
        add_threshold(bundle, record, precision, "onnxruntime");
        bundle.is_int8_runtime_known = false;
    }
}

}  // namespace

std::string Bundle::graph_name(const std::string &precision) {
    return precision == "fp32" || precision == "bf16" ? "model.onnx" : "model." + precision + ".onnx";
}

bool Bundle::has(const std::string &precision) const {
    return std::find(precisions.begin(), precisions.end(), precision) != precisions.end();
}

fs::path Bundle::graph_of(const std::string &precision) const {
    if (!has(precision))
        refuse(path, "holds no " + precision + " graph", "export it with --precision fp32," + precision);
    return path / graph_name(precision);
}

bool Bundle::is_calibrated_alike(const std::string &precision, const std::string &runtime) const {
    return !threshold_of("fp32").is_set() || threshold_of(precision, runtime).is_set();
}

Threshold Bundle::threshold_of(const std::string &precision, const std::string &runtime) const {
    const auto found = thresholds.find(key_of(precision, runtime));
    return found == thresholds.end() ? Threshold{} : found->second;
}

std::string Bundle::changed_since(const std::string &precision, const std::string &runtime) const {
    const auto found = stale.find(key_of(precision, runtime));
    return found == stale.end() ? std::string() : found->second;
}

std::string Bundle::why_undecided(const std::string &precision, const std::string &runtime) const {
    if (threshold_of(precision, runtime).is_set()) return {};
    auto changed = changed_since(precision, runtime);
    if (changed.empty()) changed = changed_since("fp32", "");
    if (!changed.empty()) return changed + " was changed after the calibration: every verdict is undecided";
    if (!threshold_of("fp32").is_set()) return {};
    return precision + " has no threshold that " + runtime + " measured: every verdict is undecided until kdx calibrate on a "
           "machine with " + runtime;
}

std::string Bundle::doubt_about(const std::string &precision, const std::string &runtime) const {
    if (precision != "int8" || is_int8_runtime_known || !threshold_of(precision, runtime).is_set()) return {};
    return "the int8 threshold was calibrated by an older kdx, which did not record which runtime measured it: calibrate again";
}

fs::path Bundle::file_of(const std::string &name) const {
    const auto file = path / fs::u8path(name);
    std::error_code error;
    if (!fs::is_regular_file(file, error))
        refuse(path, "lacks '" + name + "'", "copy the bundle again, or export it again");
    return file;
}

void Bundle::require_hash(const std::string &name, const std::string &received) const {
    if (received == hash_of(name)) return;
    // Caches of model hubs keep content elsewhere and links to it here: what counts is the content.
    if (!is_inside(path, path / fs::u8path(name)))
        refuse(path, "holds a link to a file outside the bundle, with other content than was exported: '" + name + "'",
               "copy the bundle again with what its links lead to (cp -rL), or export it again");
    refuse(path, "is not as it was exported: '" + name + "' was altered\n  expected: sha256 " + hash_of(name) +
                     "\n  received: sha256 " + received, "copy the bundle again, or export it again");
}

std::string Bundle::read(const std::string &name) const {
    const auto file = file_of(name);
    auto content = read_file(file);
    require_hash(name, hexadecimal(sha256_of(content)));
    if (is_graph(name)) require_plain_graph(content, file.string());
    return content;
}

std::string Bundle::check_files(const std::string &wanted) const {
    std::string kept;
    for (const auto &[name, hash] : files) {
        if (!is_graph(name)) {
            require_hash(name, sha256_of_file(file_of(name)));
            continue;
        }
        auto content = read(name);  // a graph is looked into as well, in the very bytes that were hashed
        if (name == wanted) kept = std::move(content);
    }
    return kept;
}

Bundle parse_manifest(const std::string &text, const fs::path &path) {
    try {
        const auto manifest = json::parse(text);
        const auto schema = manifest.at("schema").get<std::int64_t>();
        if (schema > kSchema)
            refuse(path, "was written by a newer kdx: schema " + std::to_string(schema) + ", known is " +
                             std::to_string(kSchema), "update kdx on this machine");
        Bundle bundle;
        bundle.path = path;
        read_input(bundle, manifest);
        read_tiling(bundle, manifest);
        read_files(bundle, manifest);
        read_rule(bundle, manifest);
        read_thresholds(bundle, manifest);
        return bundle;
    } catch (const json::exception &error) {
        refuse(path, std::string("is not valid: ") + error.what(), "export the bundle again");
    } catch (const Failure &failure) {
        const std::string what = failure.what();
        if (what.find("\n  fix: ") != std::string::npos) throw;
        refuse(path, "is not valid: " + what, "export the bundle again");
    }
}

Bundle open_bundle(const fs::path &path, const std::vector<PublicKey> *keys) {
    std::error_code error;
    if (!fs::is_directory(path, error))
        throw Failure(KDX_ERROR_BUNDLE, "there is no bundle '" + path.string() + "'\n  fix: make one with kdx export");
    if (!fs::is_regular_file(path / kIndex, error))
        refuse(path, std::string("is not a bundle: ") + kIndex + " is missing", "export it again with kdx export");
    const auto index = read_file(path / kIndex);
    std::optional<Seal> seal;
    if (keys) seal = verify_signature(path, index, *keys);
    auto bundle = parse_manifest(index, path);
    bundle.seal = std::move(seal);
    return bundle;
}

std::string read_file(const fs::path &file) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    std::ifstream stream(file, std::ios::binary);
    std::string content(error ? 0 : static_cast<std::size_t>(size), '\0');
    if (error || !stream.read(content.data(), static_cast<std::streamsize>(content.size())))
        throw Failure(KDX_ERROR_BUNDLE, "'" + file.string() + "' cannot be read");
    return content;
}

}  // namespace kdx::embed
