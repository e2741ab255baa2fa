#include "level_map.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "bundle.h"
#include "error.h"
#include "golden.h"

namespace kdx::embed {

namespace {

[[noreturn]] void refuse_level(const Bundle &bundle, const std::string &why, const std::string &expected = "",
                               const std::string &received = "") {
    throw Failure(KDX_ERROR_BUNDLE, std::string("'") + kLevel + "' of '" + bundle.path.string() + "' " + why,
                  {expected, received, "calibrate again: kdx calibrate BUNDLE DATA --per-position"});
}

}  // namespace

float Level::apply(const float *map, float score, std::vector<float> &normalised) const {
    normalised.resize(values_.size());
    double sum = 0;
    float most = -std::numeric_limits<float>::infinity();
    bool is_number = true;
    for (std::size_t i = 0; i < values_.size(); ++i) {
        const auto value = normalised[i] = map[i] / values_[i];
        is_number = is_number && !std::isnan(value);  // std::max ignores NaN
        sum += double{value};
        most = std::max(most, value);
    }
    if (!std::isfinite(score)) return score;
    if (!is_number) return std::numeric_limits<float>::quiet_NaN();
    return rule_ == ScoreRule::sum ? static_cast<float>(sum) : most;
}

Level read_level(const Bundle &bundle) {
    if (!bundle.score_rule)
        throw Failure(KDX_ERROR_BUNDLE,
                      "'" + bundle.path.string() +
                          "' stores a level map, but its method takes none: its score does not "
                          "come from the returned map alone",
                      {"a method whose score is the maximum or the sum of one map, for example stpm", "",
                       "export the bundle again"});
    const std::vector<std::size_t> shape = {static_cast<std::size_t>(bundle.camera_map_height),
                                            static_cast<std::size_t>(bundle.camera_map_width)};
    const auto file = bundle.read(kLevel);
    std::vector<float> values;
    bool fits = false;
    try {
        fits = has_shape(file, shape);
        if (fits) values = decode_npy(file, shape);
    } catch (const Failure &failure) {
        refuse_level(bundle, "cannot be used: " + failure.message);
    }
    if (!fits)
        refuse_level(bundle, "does not fit the map",
                     "float32 (" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ")", "another shape");
    const auto wrong =
        std::count_if(values.begin(), values.end(), [](float value) { return !(std::isfinite(value) && value > 0); });
    if (wrong)
        refuse_level(bundle, "has invalid values", "finite values above 0", std::to_string(wrong) + " other values");
    return Level(std::move(values), *bundle.score_rule);
}

}  // namespace kdx::embed
