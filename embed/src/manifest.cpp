#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "error.h"
#include "json_reading.h"
#include "manifest_fields.h"
#include "threshold_checks.h"

namespace kdx::embed {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kSchema = 4;
// The first one in which a person may have set the threshold, or networks may see a window.
constexpr int kByHandSchema = 4;
constexpr int kShortestWindow = 8;  // pixels a side
constexpr int kInt8Schema = 3;  // the first one in which INT8 students have a reference of their own
// The limits of a camera's frame and of a graph's input in Python, with which products of sizes
// cannot overflow.
constexpr int kLargestSide = 1 << 17;
constexpr std::int64_t kMostPixels = 1 << 28;
constexpr std::size_t kMostTiles = 4096;  // along an axis
constexpr const char *kExportAgain = "export the bundle again";

// A threshold is not what is stored beside it.
struct Contradiction {
    std::string why;
};

// Reads the height and the width of an image.
std::pair<int, int> size_of(const json &height, const json &width) {
    const auto down = whole_number(height, 1, kLargestSide), across = whole_number(width, 1, kLargestSide);
    if (std::int64_t{down} * across > kMostPixels)
        throw Invalid{"an image has more than " + std::to_string(kMostPixels) + " pixels"};
    return {down, across};
}

// Reads a number from 0 to 1.
double share_of(const json &value) {
    const auto found = value.get<double>();
    if (!(found >= 0 && found <= 1)) throw Invalid{"a fraction is out of range"};
    return found;
}

double number_of(const json &record, const char *name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_null() ? kNone : found->get<double>();
}

// Returns the object under a name; an empty one if there is none.
json object_at(const json &record, const char *name) { return record.value(name, json::object()); }

bool is_hash(const std::string &text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Whether a name is a relative POSIX path inside the bundle, which no other system reads
// differently.
bool is_contained(const std::string &name) {
    const std::string forbidden("\\:\0", 3);
    if (name.empty() || name.front() == '/' || name.find_first_of(forbidden) != std::string::npos) return false;
    for (const auto &part : fs::path(name))
        if (part == "..") return false;
    return true;
}

Threshold threshold_from(const json &record, bool is_scaled) {
    Threshold threshold{record.at("score").get<double>(), number_of(record, "pixel"), kNone, {}, {}};
    if (record.contains("scores"))
        threshold.good_scores = {record["scores"].get<std::vector<double>>(),
                                 static_cast<double>(whole_number(record.at("images"), 0))};
    if (record.contains("review") && !record["review"].is_null())
        threshold.review = record["review"].at("score").get<double>();
    if (record.contains("by_hand") && !record["by_hand"].is_null())
        threshold.by_hand = record["by_hand"].at("reason").get<std::string>();
    if (!std::isfinite(threshold.score)) throw Invalid{"a threshold is not finite"};
    if (!fits_its_scores(record)) throw Contradiction{"a threshold does not fit its held-out scores"};
    if (!is_as_given(record, is_scaled))
        throw Contradiction{"a threshold that was set by hand is not the number given"};
    return threshold;
}

void read_frame_limits(Bundle &bundle, const json &record) {
    auto &limits = bundle.frame_limits;
    if (record.contains("dark")) limits.dark = share_of(record["dark"]);
    if (record.contains("bright")) limits.bright = share_of(record["bright"]);
    if (!record.contains("channels")) return;
    for (const auto &channel : record["channels"])
        limits.channels.push_back({number_of(channel, "darkest"), number_of(channel, "brightest"),
                                   number_of(channel, "contrast"), number_of(channel, "structure"),
                                   number_of(channel, "roughness"), number_of(channel, "lit")});
    if (!limits.channels.empty() && limits.channels.size() != static_cast<std::size_t>(bundle.channels))
        throw Failure(KDX_ERROR_BUNDLE,
                      std::string(kIndex) + " of '" + bundle.path.string() + "' is not valid: its frame limits have " +
                          std::to_string(limits.channels.size()) + " channels",
                      {std::to_string(bundle.channels) + ", or none", "", "calibrate again"});
}

Crop crop_from(const json &record, const Bundle &bundle) {
    const auto parts = whole_numbers(record, 0);
    if (parts.size() != 4) throw Invalid{"its window is not four numbers"};
    const Crop crop{parts[0], parts[1], parts[2], parts[3]};
    if (crop.width < kShortestWindow || crop.height < kShortestWindow ||
        crop.left > bundle.width - crop.width || crop.top > bundle.height - crop.height)
        throw Invalid{"its window is not inside of the frame"};
    return crop;
}

void read_input(Bundle &bundle, const json &manifest) {
    const auto &input = manifest.at("input");
    std::tie(bundle.height, bundle.width) = size_of(input.at("height"), input.at("width"));
    bundle.channels = input.contains("channels") ? whole_number(input["channels"], 1, 3) : 3;
    const auto order = input.value("channel_order", std::string("rgb"));
    if ((bundle.channels != 1 && bundle.channels != 3) || (order != "rgb" && order != "bgr"))
        throw Invalid{"its input has an unknown layout"};
    bundle.bgr = order == "bgr" && bundle.channels == 3;
    if (input.contains("sixteen_bit_range")) {
        const auto range = whole_numbers(input["sixteen_bit_range"], 0, 65535);
        if (range.size() != 2 || range[0] >= range[1]) throw Invalid{"its 16-bit range is not one"};
        bundle.sixteen_bit_low = range[0], bundle.sixteen_bit_high = range[1];
    }
    const auto &size = manifest.at("map_size");
    if (!size.is_array() || size.size() != 2) throw Invalid{"its map size is not two numbers"};
    std::tie(bundle.map_height, bundle.map_width) = size_of(size[0], size[1]);
    bundle.max_batch = whole_number(manifest.at("max_batch"), 1);
    if (input.contains("crop")) bundle.crop = crop_from(input["crop"], bundle);
    bundle.field_of_view = manifest.contains("field_of_view") ? share_of(manifest["field_of_view"]) : 1.0;
    if (bundle.field_of_view == 0) throw Invalid{"its map covers nothing of the frame"};
    read_frame_limits(bundle, object_at(manifest, "frame_limits"));
}

// Reads where tiles begin along an axis. The tiles without their halos must cover the frame.
std::vector<int> read_starts(const json &values, const Tiling &tiling, int frame, int tile, int scale) {
    const auto starts = whole_numbers(values, 0, kLargestSide);
    bool fits = !starts.empty() && starts.size() <= kMostTiles && starts.front() == 0 && starts.back() == frame - tile;
    for (std::size_t i = 0; fits && i < starts.size(); ++i) {
        fits = starts[i] % scale == 0;
        if (i > 0) fits = fits && starts[i] > starts[i - 1] && starts[i] - starts[i - 1] <= tile - 2 * tiling.halo;
    }
    if (!fits || frame % scale || tiling.overlap % scale || tiling.halo % scale)
        throw Invalid{"the tiles do not cover the frame"};
    return starts;
}

void read_tiling(Bundle &bundle, const json &manifest) {
    bundle.camera_height = bundle.height, bundle.camera_width = bundle.width;
    bundle.camera_map_height = bundle.map_height, bundle.camera_map_width = bundle.map_width;
    if (!manifest.contains("tiling") || manifest["tiling"].is_null()) return;
    if (bundle.crop.is_set()) throw Invalid{"tiles cover whole frames, and its networks see a window"};
    const auto &record = manifest["tiling"];
    if (record.value("bands", false))
        throw Failure(KDX_ERROR_BUNDLE,
                      "the frames of '" + bundle.path.string() + "' are read in bands of rows",
                      {"a bundle whose frames are passed as images", "", "judge them in Python: kdx predict"});
    auto &tiling = bundle.tiling;
    tiling.overlap = whole_number(record.at("overlap"), 0, kLargestSide);
    tiling.halo = whole_number(record.at("halo"), 0, kLargestSide);
    tiling.batch = record.contains("batch") ? whole_number(record["batch"], 1) : 8;
    if (bundle.height % bundle.map_height || bundle.width % bundle.map_width || tiling.overlap < 2 * tiling.halo)
        throw Invalid{"the maps of the tiles do not fit together"};
    const int down = bundle.height / bundle.map_height, across = bundle.width / bundle.map_width;
    const auto &frame = record.at("frame");
    std::tie(bundle.camera_height, bundle.camera_width) = size_of(frame.at(0), frame.at(1));
    tiling.rows = read_starts(record.at("rows"), tiling, bundle.camera_height, bundle.height, down);
    tiling.columns = read_starts(record.at("columns"), tiling, bundle.camera_width, bundle.width, across);
    bundle.camera_map_height = bundle.camera_height / down, bundle.camera_map_width = bundle.camera_width / across;
}

void read_int8_students(Bundle &bundle, const json &manifest) {
    const auto &provenance = manifest.at("provenance");
    bundle.has_int8_students = provenance.contains("int8") && !provenance["int8"].is_null();
    if (bundle.has_int8_students && (manifest["schema"] < kInt8Schema || !bundle.has(Precision::int8)))
        throw Invalid{"it names the origin of INT8 students"};
    const bool is_counted = bundle.has_int8_students && provenance["int8"].contains("residual_additions");
    bundle.has_residual_additions = !is_counted || whole_number(provenance["int8"]["residual_additions"], 0) != 0;
}

void read_files(Bundle &bundle, const json &manifest) {
    for (const auto &[name, hash] : manifest.at("files").items()) {
        if (!is_contained(name))
            throw Failure(KDX_ERROR_BUNDLE,
                          "'" + bundle.path.string() + "' names a file outside the bundle: '" + name + "'",
                          {"", "", "do not use this bundle"});
        bundle.files[name] = hash.get<std::string>();
        if (!is_hash(bundle.files[name])) throw Invalid{"'" + name + "' has no SHA-256"};
    }
    bundle.golden = manifest.at("golden").get<std::vector<std::string>>();
    bundle.precisions = {Precision::fp32};
    const auto variants = object_at(manifest, "variants");
    for (const auto &[name, variant] : variants.items()) {
        const auto precision = precision_named(name);
        if (!precision || *precision == Precision::fp32) throw Invalid{"it holds a graph of an unknown precision"};
        bundle.precisions.push_back(*precision);
    }
    read_int8_students(bundle, manifest);
    std::vector<std::string> required = {"training_images.json"};
    for (const auto &name : bundle.golden) required.push_back("golden/" + name);
    for (const auto precision : bundle.precisions) {
        const auto [maps, scores] = bundle.reference_files(precision);
        required.insert(required.end(), {Bundle::graph_name(precision), maps, scores});
    }
    for (const auto &name : required)
        if (!bundle.files.count(name))
            throw Failure(KDX_ERROR_BUNDLE,
                          std::string(kIndex) + " of '" + bundle.path.string() + "' does not list '" + name + "'",
                          {"", "", kExportAgain});
}

using Hash = std::optional<std::string>;

// Returns the hash that a record holds under a name; nothing for none.
Hash recorded_hash(const json &record, const char *name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_null() ? Hash() : Hash(found->get<std::string>());
}

// Returns the hash of a file of a bundle; nothing if it has no such file.
Hash listed_hash(const Bundle &bundle, const char *name) {
    return bundle.files.count(name) ? Hash(bundle.hash_of(name)) : Hash();
}

// Reads a threshold. It holds only with the region of interest and the level map with which it was
// calibrated. That of BF16 or INT8 is on the scale of their own scores.
Calibration calibration_from(const json &record, const Bundle &bundle, bool is_scaled = true) {
    Calibration calibration{threshold_from(record, is_scaled)};
    const auto level = record.find("level");
    const bool has_level = level != record.end() && !level->is_null();
    const auto level_hash = has_level ? Hash(level->at("sha256").get<std::string>()) : Hash();
    if (recorded_hash(record, "roi_sha256") != listed_hash(bundle, kRoi))
        calibration.changed_since = Change::region_of_interest;
    else if (level_hash != listed_hash(bundle, kLevel))
        calibration.changed_since = Change::level_map;
    return calibration;
}

// Requires that a threshold was calibrated on the graph that the bundle holds.
void require_its_graph(const json &record, const Bundle &bundle, Precision precision) {
    const auto graph = Bundle::graph_name(has_own_threshold(precision) ? precision : Precision::fp32);
    if (record.at("graph_sha256").get<std::string>() != bundle.hash_of(graph))
        throw Failure(KDX_ERROR_BUNDLE,
                      "the threshold of '" + bundle.path.string() + "' was calibrated on another graph",
                      {"", "", "export and calibrate again"});
}

// Returns the precision of thresholds that each runtime measures for itself; nothing if it is
// unknown or the bundle has no such graph.
std::optional<Precision> own_precision(const std::string &name, const Bundle &bundle) {
    const auto precision = precision_named(name);
    return precision && has_own_threshold(*precision) && bundle.has(*precision) ? precision : std::nullopt;
}

// Adds the thresholds of BF16 and INT8, which each runtime has measured for itself. Those of other
// precisions and runtimes are checked as well, although this library does not use them.
void read_runtime_thresholds(Bundle &bundle, const json &records) {
    for (const auto &[name, by_runtime] : records.items()) {
        const auto precision = own_precision(name, bundle);
        for (const auto &[runtime_name, record] : by_runtime.items()) {
            const auto calibration = calibration_from(record, bundle);
            if (!precision) continue;
            require_its_graph(record, bundle, *precision);
            const auto runtime = runtime_named(runtime_name);
            if (runtime) bundle.calibrations[{*precision, runtime}] = calibration;
        }
    }
}

// Adds the thresholds of a bundle of schema 1, which did not record the runtime. They hold in
// OpenVINO: it was the only runtime that computed BF16, and one of the two that may have measured
// INT8.
void read_schema_1_thresholds(Bundle &bundle, const json &records, const json &newer) {
    for (const auto &[name, record] : records.items()) {
        const auto calibration = calibration_from(record, bundle);
        const auto precision = own_precision(name, bundle);
        if (!precision || newer.contains(name)) continue;
        require_its_graph(record, bundle, *precision);
        bundle.calibrations[{*precision, Runtime::openvino}] = calibration;
        if (*precision == Precision::int8) bundle.is_int8_runtime_known = false;
    }
}

void read_thresholds(Bundle &bundle, const json &manifest) {
    const auto shared = manifest.find("threshold");
    if (shared != manifest.end() && !shared->is_null()) {
        const auto calibration = calibration_from(*shared, bundle, false);
        require_its_graph(*shared, bundle, Precision::fp32);
        for (const auto precision : {Precision::fp32, Precision::fp16})
            bundle.calibrations[{precision, std::nullopt}] = calibration;
    }
    const auto newer = object_at(manifest, "runtime_thresholds");
    read_runtime_thresholds(bundle, newer);
    read_schema_1_thresholds(bundle, object_at(manifest, "thresholds"), newer);
}

// Older libraries must refuse what they do not know, by its schema.
void require_schema(const json &manifest, const Bundle &bundle) {
    const auto threshold = manifest.value("threshold", json());
    const bool is_by_hand = threshold.is_object() && !threshold.value("by_hand", json()).is_null();
    if ((is_by_hand || bundle.crop.is_set()) && manifest["schema"] < kByHandSchema)
        throw Invalid{"its schema does not hold everything in it"};
}

void read_method(Bundle &bundle, const json &manifest) {
    const auto spec = parse_pair_spec(manifest.at("pair_spec").dump());
    bundle.answer_limits = answer_limits(spec, static_cast<std::size_t>(bundle.map_height) * bundle.map_width);
    bundle.score_rule = spec.rule_of_returned_map();
}

}  // namespace

Bundle parse_manifest(const std::string &text, const fs::path &path) {
    const auto refuse = [&](const std::string &why) {
        return Failure(KDX_ERROR_BUNDLE, "'" + (path / kIndex).string() + "' is not valid: " + why,
                       {"", "", kExportAgain});
    };
    try {
        const auto manifest = parse_json(text);
        const auto &declared = manifest.at("schema");
        if (!declared.is_number_integer() || declared < 1) throw Invalid{"there is no schema " + declared.dump()};
        const auto schema = declared.get<std::int64_t>();
        if (schema > kSchema)
            throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' was written by a newer kdx",
                          {"schema " + std::to_string(kSchema) + " or older", "schema " + std::to_string(schema),
                           "update kdx on this machine"});
        require_fields(manifest);
        Bundle bundle;
        bundle.path = path;
        read_input(bundle, manifest);
        read_tiling(bundle, manifest);
        read_files(bundle, manifest);
        read_method(bundle, manifest);
        read_thresholds(bundle, manifest);
        require_schema(manifest, bundle);
        return bundle;
    } catch (const json::exception &error) {
        throw refuse(error.what());
    } catch (const Contradiction &contradiction) {
        throw Failure(KDX_ERROR_BUNDLE,
                      std::string(kIndex) + " of '" + path.string() + "' contradicts itself: " + contradiction.why,
                      {"", "",
                       "copy the bundle again from where it was calibrated, or export it again. A threshold is changed "
                       "with kdx calibrate"});
    } catch (const Invalid &invalid) {
        throw refuse(invalid.why);
    }
}

}  // namespace kdx::embed
