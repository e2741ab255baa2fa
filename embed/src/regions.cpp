#include "regions.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "error.h"

namespace kdx::embed {

namespace {

// A region in pixels of the map.
struct Patch {
    std::size_t pixels = 0;
    int top, left, bottom, right;
    float peak;
    int peak_row, peak_column;

    Patch(int row, int column, float value)
        : top(row), left(column), bottom(row), right(column), peak(value), peak_row(row), peak_column(column) {}

    void add(int row, int column, float value) {
        ++pixels;
        top = std::min(top, row), bottom = std::max(bottom, row);
        left = std::min(left, column), right = std::max(right, column);
        // If values are equal, the first in reading order is the peak.
        if (value > peak || (value == peak && std::pair(row, column) < std::pair(peak_row, peak_column)))
            peak = value, peak_row = row, peak_column = column;
    }
};

class Finder {
public:
    Finder(const Bundle &bundle, const Level *level, const kdx_map &map, double threshold)
        : lowest_(bundle.answer_limits.lowest_map),
          level_(level),
          height_(bundle.camera_map_height),
          width_(bundle.camera_map_width),
          data_(reinterpret_cast<const char *>(map.data)),
          stride_(map.row_stride ? map.row_stride : width_ * static_cast<std::int64_t>(sizeof(float))),
          threshold_(threshold),
          seen_(static_cast<std::size_t>(height_) * width_) {}

    // Throws Failure if the method cannot have computed a value of the map.
    std::vector<Patch> run() {
        for (int row = 0; row < height_; ++row)
            for (int column = 0; column < width_; ++column) {
                if (!std::isfinite(at(row, column))) refuse_map("that are not finite");
                if (is_below(row, column)) refuse_map("below the lowest that the method can compute");
            }
        std::vector<Patch> patches;
        for (int row = 0; row < height_; ++row)
            for (int column = 0; column < width_; ++column)
                if (is_new(row, column)) patches.push_back(fill(row, column));
        return patches;
    }

private:
    [[noreturn]] static void refuse_map(const char *values) {
        throw Failure(KDX_ERROR_ARGUMENT, std::string("the map has values ") + values + ": its image has no verdict",
                      {"", "", "run kdx verify: the runtime, its driver or the graph is at fault"});
    }

    float at(int row, int column) const {
        float value;  // rows of the caller's need not be aligned
        std::memcpy(&value, data_ + row * stride_ + column * static_cast<std::int64_t>(sizeof value), sizeof value);
        return value;
    }

    // Whether the value before the division by the level is below the lowest that the method can
    // compute. Rounding to FP32, in the division and in the stitching of tiles, changes a value by
    // less than 2^-20 of it.
    bool is_below(int row, int column) const {
        const double divisor = level_ ? level_->values()[static_cast<std::size_t>(row) * width_ + column] : 1;
        return at(row, column) * divisor < lowest_ * (1 + 1.0 / (1 << 20));
    }

    // Whether a pixel exceeds the threshold and belongs to no region yet. Marks it as belonging to
    // one.
    bool is_new(int row, int column) {
        auto &seen = seen_[static_cast<std::size_t>(row) * width_ + column];
        if (seen || !(at(row, column) > threshold_)) return false;
        seen = 1;
        return true;
    }

    // A stack instead of recursion, because a region may be the whole map.
    Patch fill(int row, int column) {
        Patch patch(row, column, at(row, column));
        waiting_.assign(1, {row, column});
        while (!waiting_.empty()) {
            const auto [y, x] = waiting_.back();
            waiting_.pop_back();
            patch.add(y, x, at(y, x));
            for (int v = std::max(y - 1, 0); v <= std::min(y + 1, height_ - 1); ++v)
                for (int u = std::max(x - 1, 0); u <= std::min(x + 1, width_ - 1); ++u)
                    if (is_new(v, u)) waiting_.emplace_back(v, u);
        }
        return patch;
    }

    const double lowest_;
    const Level *const level_;
    const int height_, width_;
    const char *data_;
    const std::int64_t stride_;
    const double threshold_;
    std::vector<char> seen_;
    std::vector<std::pair<int, int>> waiting_;
};

}  // namespace

std::vector<kdx_region> find_regions(const Bundle &bundle, const Level *level, const kdx_map &map, double threshold,
                                     double min_area, double pixel_size_um) {
    const auto rows = bundle.rows_covered(), columns = bundle.columns_covered();
    const double top = rows.begin, left = columns.begin;
    const double down = rows.length / bundle.camera_map_height, across = columns.length / bundle.camera_map_width;
    std::vector<kdx_region> regions;
    for (const auto &patch : Finder(bundle, level, map, threshold).run()) {
        const double area = static_cast<double>(patch.pixels) * down * across;
        if (area < min_area) continue;
        const double millimetres = pixel_size_um / 1e3;
        regions.push_back({area, pixel_size_um > 0 ? area * (millimetres * millimetres) : kNone, top + patch.top * down,
                           left + patch.left * across, (patch.bottom + 1 - patch.top) * down,
                           (patch.right + 1 - patch.left) * across, patch.peak, top + (patch.peak_row + 0.5) * down,
                           left + (patch.peak_column + 0.5) * across});
    }
    std::sort(regions.begin(), regions.end(), [](const kdx_region &a, const kdx_region &b) {
        return std::tuple(-a.peak, a.top, a.left) < std::tuple(-b.peak, b.top, b.left);
    });
    return regions;
}

}  // namespace kdx::embed
