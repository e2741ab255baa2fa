#include "position.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "bundle.h"
#include "error.h"
#include "golden.h"

namespace kdx::embed {

namespace {

[[noreturn]] void refuse_level(const Bundle &bundle, const std::string &why) {
    throw Failure(KDX_ERROR_BUNDLE, "'" + (bundle.path / kLevel).string() + "' cannot be used: " + why +
                                        "\n  fix: calibrate again: kdx calibrate BUNDLE DATA --per-position");
}

}  // namespace

float Level::apply(const float *map, float score, std::vector<float> &normalised) const {
    normalised.resize(values_.size());
    double sum = 0;
    float most = -std::numeric_limits<float>::infinity();
    bool is_number = true;
    for (std::size_t i = 0; i < values_.size(); ++i) {
        const auto value = normalised[i] = map[i] / values_[i];
        is_number = is_number && !std::isnan(value);  // a maximum would pass over it
        sum += double{value};
        most = std::max(most, value);
    }
    if (!std::isfinite(score)) return score;
    if (!is_number) return std::numeric_limits<float>::quiet_NaN();
    return is_sum_ ? static_cast<float>(sum) : most;
}

Level read_level(const Bundle &bundle) {
    if (bundle.score_rule.empty()) refuse_level(bundle, "this method's score is not of the returned map alone");
    const auto count = static_cast<std::size_t>(bundle.camera_map_height) * bundle.camera_map_width;
    const auto shape = "(" + std::to_string(bundle.camera_map_height) + ", " + std::to_string(bundle.camera_map_width) + ")";
    const auto file = bundle.read(kLevel);
    // As many values in another shape are another map; decode_npy counts them alone.
    if (file.substr(0, 1024).find("'shape': " + shape) == std::string::npos) refuse_level(bundle, "its shape is not " + shape);
    std::vector<float> values;
    try {
        values = decode_npy(file, count);
    } catch (const Failure &failure) {
        refuse_level(bundle, failure.what());
    }
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value) && value > 0; }))
        refuse_level(bundle, "it has values that are not finite and above 0");
    return Level(std::move(values), bundle.score_rule == "sum");
}

}  // namespace kdx::embed
