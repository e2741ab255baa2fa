// RGB from luma and two colour differences (Y'CbCr), in whole numbers. The counterpart of
// kdx/imaging/luma_chroma.py.
#pragma once

#include <array>
#include <cstdint>

namespace kdx::embed {

// A standard by which luma and colour differences stand for RGB: the shares of red and blue in
// luma, and whether the values take all 256 levels.
class LumaChroma {
public:
    LumaChroma(double red, double blue, bool is_full);

    // Returns the RGB of a pixel.
    std::array<std::uint8_t, 3> rgb_of(int luma, int cb, int cr) const;

private:
    int black_;
    std::int32_t luma_, red_, green_blue_, green_red_, blue_;  // in units of 2**-20
};

}  // namespace kdx::embed
