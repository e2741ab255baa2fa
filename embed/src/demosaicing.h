// Full colour from a Bayer mosaic, by bilinear interpolation in whole numbers. The counterpart of
// kdx/imaging/demosaicing.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kdx::embed {

// Calls write(rgb) for every pixel, row by row, with three values. tile: the colours of the first two
// rows and columns, such as RGGB. The mosaic has at least two rows and columns; beyond the border,
// it is mirrored about its outermost pixels.
template <class Write>
void demosaic(const std::vector<std::uint16_t> &mosaic, int height, int width, const std::string &tile, Write &&write) {
    const auto channel = [](char colour) { return colour == 'R' ? 0 : colour == 'G' ? 1 : 2; };
    const auto row_of = [&](int y) {
        return mosaic.data() + static_cast<std::size_t>(y < 0 ? 1 : y == height ? height - 2 : y) * width;
    };
    for (int y = 0; y < height; ++y) {
        const auto *above = row_of(y - 1), *here = row_of(y), *below = row_of(y + 1);
        for (int x = 0; x < width; ++x) {
            const int left = x == 0 ? 1 : x - 1, right = x == width - 1 ? width - 2 : x + 1;
            const int row = y % 2, column = x % 2;
            const char colour = tile[2 * row + column];
            // 32 bits hold the sum of four samples.
            const std::uint32_t beside = here[left] + std::uint32_t{here[right]};
            const std::uint32_t over = above[x] + std::uint32_t{below[x]};
            std::uint16_t rgb[3];
            rgb[channel(colour)] = here[x];
            if (colour == 'G') {
                rgb[channel(tile[2 * row + 1 - column])] = static_cast<std::uint16_t>((beside + 1) >> 1);
                rgb[channel(tile[2 * (1 - row) + column])] = static_cast<std::uint16_t>((over + 1) >> 1);
            } else {
                const std::uint32_t corners = above[left] + std::uint32_t{above[right]} + below[left] + below[right];
                rgb[1] = static_cast<std::uint16_t>((beside + over + 2) >> 2);
                rgb[colour == 'R' ? 2 : 0] = static_cast<std::uint16_t>((corners + 2) >> 2);
            }
            write(rgb);
        }
    }
}

}  // namespace kdx::embed
