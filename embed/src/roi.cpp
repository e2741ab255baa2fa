#include "roi.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bundle.h"
#include "error.h"
#include "golden.h"

namespace kdx::embed {

namespace {

// A pixel of the map that ends where a pixel of the camera begins does not touch it. The tolerance
// absorbs rounding.
constexpr double kTouches = 1e-6;

[[noreturn]] void refuse_roi(const char *what, const Details &details = {}) {
    throw Failure(KDX_ERROR_ARGUMENT, what, details);
}

struct Span {
    int first, last;  // last is exclusive
};

// Returns the pixels of the camera that each pixel of the map touches along an axis.
std::vector<Span> covered(int count, int length, const Covered &part) {
    const double begin = part.begin, step = part.length / count;
    std::vector<Span> spans;
    for (int i = 0; i < count; ++i) {
        const auto first = static_cast<int>(std::floor(begin + i * step + kTouches));
        const auto last = static_cast<int>(std::ceil(begin + (i + 1) * step - kTouches));
        spans.push_back({std::clamp(first, 0, length - 1), std::clamp(last, 1, length)});
    }
    return spans;
}

}  // namespace

Roi::Roi(const Bundle &bundle, const std::uint8_t *mask, std::int64_t row_stride)
    : rule_(bundle.score_rule.value_or(ScoreRule::max)) {
    if (!bundle.score_rule)
        refuse_roi("this method takes no region of interest: its score does not come from the returned map alone",
                   {"a method whose score is the maximum or the sum of one map, for example stpm", "",
                    "train another method; kdx methods lists them"});
    const auto width = static_cast<std::size_t>(bundle.camera_width);
    const auto height = static_cast<std::size_t>(bundle.camera_height);
    included_.resize(width * height);
    // Number of excluded pixels above and to the left of each corner; four of them give the number
    // in a rectangle.
    std::vector<std::int64_t> corners((width + 1) * (height + 1));
    for (std::size_t y = 0; y < height; ++y) {
        std::int64_t excluded = 0;
        const auto *row = mask + static_cast<std::int64_t>(y) * row_stride;
        for (std::size_t x = 0; x < width; ++x) {
            if (row[x] != 0 && row[x] != 255)
                refuse_roi("the region of interest has other values than 0 and 255",
                           {"255 for pixels that count, 0 for others", std::to_string(row[x]),
                            "save it as PNG without smoothing; JPEG does not keep values"});
            included_[y * width + x] = row[x] == 255;
            excluded += row[x] == 0;
            corners[(y + 1) * (width + 1) + x + 1] = corners[y * (width + 1) + x + 1] + excluded;
        }
    }
    if (corners.back() == 0)
        refuse_roi("the region of interest excludes nothing", {"", "", "use none: kdx roi BUNDLE --remove"});
    const auto rows = covered(bundle.camera_map_height, bundle.camera_height, bundle.rows_covered());
    const auto columns = covered(bundle.camera_map_width, bundle.camera_width, bundle.columns_covered());
    const auto at = [&](int y, int x) { return corners[static_cast<std::size_t>(y) * (width + 1) + x]; };
    for (const auto &row : rows)
        for (const auto &column : columns) {
            const auto excluded = at(row.last, column.last) - at(row.last, column.first) - at(row.first, column.last) +
                                  at(row.first, column.first);
            if (excluded == 0) indices_.push_back(static_cast<std::uint32_t>(counted_.size()));
            counted_.push_back(excluded == 0);
        }
    const bool includes_any = corners.back() < static_cast<std::int64_t>(included_.size());
    if (indices_.empty())
        refuse_roi(includes_any ? "no pixel of the map lies wholly within the region of interest"
                                : "the region of interest includes nothing",
                   {"255 where parts may be rejected", "", ""});
}

float Roi::score_of(const float *map, float score) const {
    if (!std::isfinite(score)) return score;
    double sum = 0;
    float most = -std::numeric_limits<float>::infinity();
    for (const auto index : indices_) {
        const auto value = map[index];
        if (std::isnan(value)) return value;  // std::max ignores NaN
        sum += double{value};
        most = std::max(most, value);
    }
    return rule_ == ScoreRule::sum ? static_cast<float>(sum) : most;
}

Roi read_roi(const Bundle &bundle) {
    std::vector<std::uint8_t> mask;
    try {
        decode_png(bundle.read(kRoi), bundle.camera_height, bundle.camera_width, 1, mask);
        return Roi(bundle, mask.data(), bundle.camera_width);
    } catch (const Failure &failure) {
        throw Failure(KDX_ERROR_BUNDLE, "'" + (bundle.path / kRoi).string() + "' cannot be used: " + failure.message,
                      {failure.details.expected, failure.details.received, "set it again: kdx roi BUNDLE --set"});
    }
}

}  // namespace kdx::embed
