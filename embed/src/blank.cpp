#include "blank.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "bundle.h"

namespace kdx::embed {

namespace {

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();
// No structure of the interface will be larger.
constexpr std::uint32_t kLargest = 1 << 16;

void reset(kdx_verdict &verdict) noexcept {
    verdict.decision = KDX_UNDECIDED;
    verdict.frame_faults = 0;
    verdict.score = kNothing;
    verdict.threshold = verdict.margin = kNone;
}

kdx_verdict &at(kdx_verdict *verdicts, std::size_t index, std::size_t step) {
    return *reinterpret_cast<kdx_verdict *>(reinterpret_cast<char *>(verdicts) + index * step);
}

// Returns the distance between verdicts: the size of the first or, if that is invalid, of the
// second. 0: not known. Smaller distances are tried first: no array is read beyond its end.
std::size_t step_of(kdx_verdict *verdicts, std::size_t count) {
    if (is_size(verdicts->struct_size, kFirstVerdict)) return verdicts->struct_size;
    for (const auto published : {kFirstVerdict, kSecondVerdict, sizeof(kdx_verdict)})
        if (count > 1 && at(verdicts, 1, published).struct_size == published) return published;
    return 0;
}

}  // namespace

bool is_size(std::uint32_t size, std::size_t first) { return size >= first && size <= kLargest; }

void reset_verdicts(kdx_verdict *verdicts, std::size_t count) noexcept {
    if (!verdicts || count == 0) return;
    if (count > kMostImages) count = 1;  // not the length of the array
    const auto step = step_of(verdicts, count);
    for (std::size_t i = 0; i < (step ? count : 1); ++i) {
        auto &verdict = at(verdicts, i, step);
        reset(verdict);
        if (step >= kSecondVerdict) verdict.reason = KDX_REASON_NONE;
        if (step >= sizeof verdict) {
            verdict.relative_score = verdict.p_value = kNone;
            verdict.held_out_images = 0;
        }
    }
}

void reset_maps(const kdx_map *maps, std::size_t count, const Bundle &bundle) noexcept {
    const auto width = static_cast<std::size_t>(bundle.camera_map_width);
    for (std::size_t i = 0; maps && i < count && count <= kMostImages; ++i) {
        if (!maps[i].data || !has_rows(maps[i], bundle)) continue;
        const auto stride = maps[i].row_stride ? maps[i].row_stride : static_cast<std::int64_t>(width * sizeof(float));
        auto *row = reinterpret_cast<char *>(maps[i].data);
        for (int y = 0; y < bundle.camera_map_height; ++y, row += stride)
            for (std::size_t x = 0; x < width; ++x) std::memcpy(row + x * sizeof(float), &kNothing, sizeof(float));
    }
}

bool has_rows(const kdx_map &map, const Bundle &bundle) {
    const auto row = static_cast<std::int64_t>(bundle.camera_map_width) * static_cast<std::int64_t>(sizeof(float));
    return map.row_stride == 0 || map.row_stride >= row;
}

kdx_description blank_description() {
    kdx_description made{};
    made.threshold = made.review_threshold = made.pixel_threshold = made.field_of_view = kNone;
    return made;
}

kdx_selftest_report blank_report() {
    kdx_selftest_report made{};
    made.flips = -1;
    made.score_difference = made.score_allowed = made.map_difference = made.map_allowed = kNone;
    made.latency_ms = made.median_ms = kNone;
    return made;
}

}  // namespace kdx::embed
