#include "detector.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "text.h"
#include "tiling.h"

namespace kdx::embed {

kdx_decision decide(double score, const Threshold &threshold, std::uint32_t frame_faults) {
    if (!threshold.is_set() || !std::isfinite(score)) return KDX_UNDECIDED;
    if (score > threshold.score) return KDX_DEFECTIVE;
    if (frame_faults) return KDX_UNDECIDED;
    return score > threshold.review ? KDX_REVIEW : KDX_GOOD;  // false for a review threshold of NaN
}

std::uint32_t reason_for(double score, const Threshold &threshold) {
    if (!std::isfinite(score)) return KDX_REASON_NOT_FINITE;
    return threshold.is_set() ? KDX_REASON_FRAME : KDX_REASON_NO_THRESHOLD;
}

Detector::Detector(Bundle bundle, const BackendKind &kind, std::string graph, const BackendOptions &options)
    : bundle_(std::move(bundle)),
      precision_(options.precision),
      threshold_(bundle_.threshold_of(options.precision, kind.runtime)) {
    if (bundle_.has_roi()) roi_ = read_roi(bundle_);
    if (bundle_.has_level()) level_ = read_level(bundle_);
    backend_ = kind.open(bundle_, std::move(graph), options);
    if (bundle_.tiling.is_set()) backend_ = tiled(std::move(backend_), bundle_);
}

std::vector<std::size_t> Detector::prepare(std::size_t count) const {
    const auto most = backend_->max_batch();
    std::vector<std::size_t> sizes;
    for (const auto part : {count >= most ? most : 0, count % most}) {  // as infer() splits
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
    description.format = pixel_format();
    description.map_height = bundle_.camera_map_height;
    description.map_width = bundle_.camera_map_width;
    description.max_batch = static_cast<std::int32_t>(backend_->max_batch());
    description.threshold = threshold_.score;
    description.review_threshold = threshold_.review;
    description.pixel_threshold = threshold_.pixel;
    description.field_of_view = bundle_.field_of_view;
    const auto &crop = bundle_.crop;
    description.crop_left = crop.left, description.crop_top = crop.top;
    description.crop_width = crop.is_set() ? crop.width : bundle_.camera_width;
    description.crop_height = crop.is_set() ? crop.height : bundle_.camera_height;
    const auto runtime = backend_->runtime();
    copy_text(name_of(runtime), description.backend, sizeof description.backend);
    copy_text(name_of(precision_), description.precision, sizeof description.precision);
    const bool is_roi_changed = bundle_.invalidated_by(precision_, runtime) == Change::region_of_interest;
    description.roi = is_roi_changed ? KDX_ROI_CHANGED : roi_ ? KDX_ROI_SET : KDX_ROI_NONE;
    auto remark = bundle_.why_undecided(precision_, runtime);
    for (const auto &more : {bundle_.doubt_about(precision_, runtime), backend_->graph().remark()})
        if (!more.empty()) remark += (remark.empty() ? "" : "; ") + more;
    copy_text(remark.c_str(), description.said, sizeof description.said);
    copy_text(threshold_.by_hand.c_str(), description.threshold_by_hand, sizeof description.threshold_by_hand);
}

kdx_pixel_format Detector::pixel_format() const {
    return bundle_.channels == 1 ? KDX_MONO8 : bundle_.bgr ? KDX_BGR8 : KDX_RGB8;
}

FrameSpec Detector::frame_spec() const {
    return {bundle_.camera_height, bundle_.camera_width,     bundle_.channels,
            bundle_.bgr,           bundle_.sixteen_bit_low, bundle_.sixteen_bit_high};
}

Frame Detector::frame_of_camera(const kdx_image &image) const {
    return frame_of(image, bundle_.camera_height, bundle_.camera_width, bundle_.channels, bundle_.bgr);
}

void Detector::infer(std::size_t count, const kdx_image *images, kdx_verdict *verdicts, std::size_t verdict_size,
                     const kdx_map *maps, const Roi *roi) const {
    const auto batch = std::min(count, backend_->max_batch());
    const auto size = static_cast<std::size_t>(bundle_.camera_height) * bundle_.camera_width * bundle_.channels;
    std::vector<Frame> frames;
    frames.reserve(batch);
    std::vector<std::uint8_t> copy;
    // All images are checked before any is judged.
    for (std::size_t i = 0; i < count; ++i) frame_of_camera(images[i]);
    for (std::size_t start = 0; start < count; start += batch) {
        const auto part = std::min(batch, count - start);
        frames.clear();
        for (std::size_t i = start; i < start + part; ++i) frames.push_back(frame_of_camera(images[i]));
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
    static const Threshold none;
    const auto &threshold = is_calibrated ? threshold_ : none;
    std::vector<float> normalised;
    const auto size = static_cast<std::size_t>(bundle_.camera_map_height) * bundle_.camera_map_width;
    backend_->run(packed, count, [&](std::size_t i, float score, const float *map) {
        // Checked before level map and region of interest, which could hide a value that is not
        // finite.
        const auto fault = bundle_.answer_limits.fault_of(map, size, score);
        score = post_process(map, score, roi, normalised);
        auto verdict = verdict_on(fault ? std::nanf("") : score, frames[i], threshold, fault);
        if (verdict.reason == KDX_REASON_NO_THRESHOLD && !is_calibrated) verdict.reason = KDX_REASON_OTHER_REGION;
        // The structure of a caller of another version has another size: only the fields that both
        // know are written.
        const auto known = std::min(verdict_size, sizeof verdict) - sizeof verdict.struct_size;
        auto *target = reinterpret_cast<char *>(verdicts) + i * verdict_size;
        std::memcpy(target + sizeof verdict.struct_size,
                    reinterpret_cast<const char *>(&verdict) + sizeof verdict.struct_size, known);
        if (maps && maps[i].data) write_map(map, maps[i], roi);
    });
}

float Detector::post_process(const float *&map, float score, const Roi *roi, std::vector<float> &normalised) const {
    if (level_) {
        score = level_->apply(map, score, normalised);
        map = normalised.data();
    }
    return roi ? roi->score_of(map, score) : score;
}

kdx_verdict Detector::verdict_on(float score, const Frame &frame, const Threshold &threshold,
                                 std::uint32_t fault) const {
    kdx_verdict verdict{};
    verdict.frame_faults = faults_of(frame, bundle_.frame_limits);
    verdict.decision = decide(score, threshold, verdict.frame_faults);
    verdict.score = score;
    if (verdict.decision == KDX_UNDECIDED) verdict.reason = fault ? fault : reason_for(score, threshold);
    verdict.threshold = threshold.score;
    verdict.relative_score = threshold.score > 0 ? score / threshold.score : kNone;  // NaN is not above 0
    verdict.margin = verdict.relative_score - 1;
    verdict.p_value = threshold.good_scores.p_value(score);
    verdict.held_out_images = threshold.good_scores.images();
    return verdict;
}

void Detector::write_map(const float *values, const kdx_map &map, const Roi *roi) const {
    const auto width = static_cast<std::size_t>(bundle_.camera_map_width);
    const auto height = static_cast<std::size_t>(bundle_.camera_map_height), row = width * sizeof(float);
    const auto stride = map.row_stride ? map.row_stride : static_cast<std::int64_t>(row);
    auto *target = reinterpret_cast<char *>(map.data);
    for (std::size_t y = 0; y < height; ++y, target += stride, values += width) {
        std::memcpy(target, values, row);
        // Rows of the caller's need not be aligned.
        for (std::size_t x = 0; roi && x < width; ++x)
            if (!roi->counts(y * width + x)) std::memset(target + x * sizeof(float), 0, sizeof(float));
    }
}

}  // namespace kdx::embed
