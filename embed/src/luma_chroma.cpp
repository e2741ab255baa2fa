#include "luma_chroma.h"

#include <algorithm>
#include <cmath>

namespace kdx::embed {

namespace {

constexpr int kShift = 20;

std::int32_t whole(double factor) { return static_cast<std::int32_t>(std::nearbyint(factor * (1 << kShift))); }

std::uint8_t limited(std::int32_t value) {
    // Division would round negative values up. They become 0 in any case.
    return static_cast<std::uint8_t>(value < 0 ? 0 : std::min(value >> kShift, 255));
}

}  // namespace

LumaChroma::LumaChroma(double red, double blue, bool is_full) : black_(is_full ? 0 : 16) {
    const double luma = is_full ? 1.0 : 255.0 / 219, chroma = is_full ? 1.0 : 255.0 / 224, green = 1 - red - blue;
    luma_ = whole(luma);
    red_ = whole(2 * (1 - red) * chroma);
    green_blue_ = whole(-2 * (1 - blue) * blue / green * chroma);
    green_red_ = whole(-2 * (1 - red) * red / green * chroma);
    blue_ = whole(2 * (1 - blue) * chroma);
}

std::array<std::uint8_t, 3> LumaChroma::rgb_of(int luma, int cb, int cr) const {
    const std::int32_t grey = (luma - black_) * luma_ + (1 << (kShift - 1));
    const int b = cb - 128, r = cr - 128;
    return {limited(grey + r * red_), limited(grey + b * green_blue_ + r * green_red_), limited(grey + b * blue_)};
}

}  // namespace kdx::embed
