#include "detector.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "error.h"
#include "text.h"
#include "tiling.h"
#include "verify.h"

namespace kdx::embed {

namespace {

const BackendKind &kind_of(const char *name) {
    const auto &kinds = backend_kinds();
    if (kinds.empty()) throw Failure(KDX_ERROR_BACKEND, "this library was built without any runtime");
    if (!name || !*name) return kinds.front();
    for (const auto &kind : kinds)
        if (std::strcmp(kind.name, name) == 0) return kind;
    std::string known;
    for (const auto &kind : kinds) known += std::string(known.empty() ? "" : ", ") + kind.name;
    throw Failure(KDX_ERROR_BACKEND, std::string("there is no backend '") + name + "' in this library\n  expected: " + known);
}

std::string precision_of(const Bundle &bundle, const BackendKind &kind, const char *asked) {
    const auto runs = [&](const std::string &precision) {
        return std::find(kind.precisions.begin(), kind.precisions.end(), precision) != kind.precisions.end();
    };
    if (asked && *asked) {
        if (!runs(asked))
            throw Failure(KDX_ERROR_BACKEND, std::string("the backend '") + kind.name + "' runs no precision '" + asked + "'");
        bundle.graph_of(asked);
        if (!kind.offers(asked))
            throw Failure(KDX_ERROR_BACKEND, std::string("this machine computes no ") + asked + "\n  fix: use another precision");
        return asked;
    }
    for (const auto &precision : kind.precisions)
        if (bundle.has(precision) && bundle.is_calibrated_alike(precision, kind.name) && kind.offers(precision)) return precision;
    return "fp32";
}

}  // namespace

kdx_decision decide(double score, const Threshold &threshold, std::uint32_t frame_faults) {
    if (!threshold.is_set() || !std::isfinite(score)) return KDX_UNDECIDED;
    if (score > threshold.score) return KDX_DEFECTIVE;
    if (frame_faults) return KDX_UNDECIDED;
    return score > threshold.review ? KDX_REVIEW : KDX_GOOD;  // never above one that is not there
}

std::uint32_t reason_for(double score, const Threshold &threshold) {
    if (!std::isfinite(score)) return KDX_REASON_NOT_FINITE;
    return threshold.is_set() ? KDX_REASON_FRAME : KDX_REASON_NO_THRESHOLD;
}

Detector::Detector(const std::string &path, const kdx_options &options, const std::vector<PublicKey> *keys)
    : bundle_(open_bundle(std::filesystem::u8path(path), keys)) {
    const auto &kind = kind_of(options.backend);
    precision_ = precision_of(bundle_, kind, options.precision);
    auto graph = bundle_.check_files(Bundle::graph_name(precision_));
    threshold_ = bundle_.threshold_of(precision_, kind.name);
    if (bundle_.has_roi()) roi_ = read_roi(bundle_);
    if (bundle_.has_level()) level_ = read_level(bundle_);
    const auto cache = options.cache_dir ? std::filesystem::u8path(options.cache_dir) : std::filesystem::path();
    backend_ = kind.open(bundle_, std::move(graph), {precision_, cache, options.threads, options.device, keys != nullptr});
    if (bundle_.tiling.is_set()) backend_ = tiled(std::move(backend_), bundle_);
    std::set<std::size_t> sizes = {1};
    // Of a frame's tiles, hardly ever one goes through alone.
    if (bundle_.tiling.is_set())
        for (const auto size : prepared(1)) sizes.insert(size);
    for (std::size_t i = 0; i < options.batch_size_count; ++i)
        for (const auto size : prepared(options.batch_sizes[i])) sizes.insert(size);
    require_reference(*this, {sizes.begin(), sizes.end()});
}

std::vector<std::size_t> Detector::prepared(std::int32_t count) const {
    const auto whole = static_cast<std::size_t>(count), at_once = backend_->max_batch();
    std::vector<std::size_t> sizes;
    for (const auto part : {whole >= at_once ? at_once : 0, whole % at_once}) {  // as infer() splits them
        if (!part) continue;
        backend_->prepare(part);
        for (const auto size : backend_->graph_batches(part)) sizes.push_back(size);
    }
    return sizes;
}

void Detector::describe(kdx_description &description) const {
    description.height = bundle_.camera_height;
    description.width = bundle_.camera_width;
    description.channels = bundle_.channels;
    description.format = bundle_.channels == 1 ? KDX_MONO8 : bundle_.bgr ? KDX_BGR8 : KDX_RGB8;
    description.map_height = bundle_.camera_map_height;
    description.map_width = bundle_.camera_map_width;
    description.max_batch = static_cast<std::int32_t>(backend_->max_batch());
    description.threshold = threshold_.score;
    description.review_threshold = threshold_.review;
    description.pixel_threshold = threshold_.pixel;
    description.field_of_view = bundle_.field_of_view;
    copy_text(backend_->name(), description.backend, sizeof description.backend);
    copy_text(precision_.c_str(), description.precision, sizeof description.precision);
    const bool is_region_changed = bundle_.changed_since(precision_, backend_->name()) == "the region of interest";
    description.roi = is_region_changed ? KDX_ROI_CHANGED : roi_ ? KDX_ROI_SET : KDX_ROI_NONE;
    auto said = bundle_.why_undecided(precision_, backend_->name());
    if (said.empty()) said = bundle_.doubt_about(precision_, backend_->name());
    copy_text(said.c_str(), description.said, sizeof description.said);
}

void Detector::infer(std::size_t count, const kdx_image *images, kdx_verdict *verdicts, std::size_t verdict_size,
                     const kdx_map *maps, const Roi *roi) const {
    const auto at_once = std::min(count, backend_->max_batch());
    const auto size = static_cast<std::size_t>(bundle_.camera_height) * bundle_.camera_width * bundle_.channels;
    std::vector<Frame> frames;
    frames.reserve(at_once);
    std::vector<std::uint8_t> copy;
    // All of them are checked before any is judged.
    for (std::size_t i = 0; i < count; ++i)
        frame_of(images[i], bundle_.camera_height, bundle_.camera_width, bundle_.channels, bundle_.bgr);
    for (std::size_t start = 0; start < count; start += at_once) {
        const auto part = std::min(at_once, count - start);
        frames.clear();
        for (std::size_t i = start; i < start + part; ++i)
            frames.push_back(frame_of(images[i], bundle_.camera_height, bundle_.camera_width, bundle_.channels, bundle_.bgr));
        const auto *packed = frames.front().data;
        if (part > 1 || !frames.front().is_packed()) {
            copy.resize(part * size);
            for (std::size_t i = 0; i < part; ++i) pack(frames[i], copy.data() + i * size);
            packed = copy.data();
        }
        auto *first = reinterpret_cast<kdx_verdict *>(reinterpret_cast<char *>(verdicts) + start * verdict_size);
        infer_part(part, frames.data(), packed, first, verdict_size, maps ? maps + start : nullptr, roi);
    }
}

void Detector::infer_part(std::size_t count, const Frame *frames, const std::uint8_t *packed, kdx_verdict *verdicts,
                          std::size_t verdict_size, const kdx_map *maps, const Roi *roi) const {
    const bool is_calibrated = roi == this->roi() || (roi && roi_ && roi_->is_same(*roi));
    const auto threshold = is_calibrated ? threshold_ : Threshold{};
    std::vector<float> normalised;
    const auto size = static_cast<std::size_t>(bundle_.camera_map_height) * bundle_.camera_map_width;
    backend_->run(packed, count, [&](std::size_t i, float score, const float *map) {
        // Before level map and region, which could hide what is not finite.
        const auto fault = bundle_.answer_limits.fault_of(map, size, score);
        if (level_) {
            score = level_->apply(map, score, normalised);
            map = normalised.data();
        }
        auto verdict = verdict_on(fault ? std::nanf("") : roi ? roi->score_of(map, score) : score, frames[i], threshold, fault);
        if (verdict.reason == KDX_REASON_NO_THRESHOLD && !is_calibrated) verdict.reason = KDX_REASON_OTHER_REGION;
        // A caller of another version has a structure of another size: what both know is written.
        const auto known = std::min(verdict_size, sizeof verdict) - sizeof verdict.struct_size;
        auto *target = reinterpret_cast<char *>(verdicts) + i * verdict_size;
        std::memcpy(target + sizeof verdict.struct_size,
                    reinterpret_cast<const char *>(&verdict) + sizeof verdict.struct_size, known);
        if (maps && maps[i].data) keep_map(map, maps[i], roi);
    });
}

kdx_verdict Detector::verdict_on(float score, const Frame &frame, const Threshold &threshold,
                                 std::uint32_t fault) const {
    kdx_verdict verdict{};
    verdict.frame_faults = faults_of(frame, bundle_.frame_limits);
    verdict.decision = decide(score, threshold, verdict.frame_faults);
    verdict.score = score;
    if (verdict.decision == KDX_UNDECIDED) verdict.reason = fault ? fault : reason_for(score, threshold);
    verdict.threshold = threshold.score;
    verdict.margin = threshold.is_set() && threshold.score != 0 ? score / threshold.score - 1 : kNone;
    return verdict;
}

void Detector::keep_map(const float *values, const kdx_map &map, const Roi *roi) const {
    const auto width = static_cast<std::size_t>(bundle_.camera_map_width), row = width * sizeof(float);
    const auto stride = map.row_stride ? map.row_stride : static_cast<std::int64_t>(row);
    auto *target = reinterpret_cast<char *>(map.data);
    for (std::size_t y = 0; y < static_cast<std::size_t>(bundle_.camera_map_height); ++y, target += stride, values += width) {
        std::memcpy(target, values, row);
        auto *kept = reinterpret_cast<float *>(target);
        for (std::size_t x = 0; roi && x < width; ++x)
            if (!roi->counts(y * width + x)) kept[x] = 0;
    }
}

}  // namespace kdx::embed
