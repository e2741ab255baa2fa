// Synthetic images for a detector.
#pragma once

#include <kdx/kdx.h>
#include <cstdint>
#include <vector>

// Returns an image with structure, of the detector's size. Each number gives a different image.
inline std::vector<std::uint8_t> frame_of(const kdx_description &takes, unsigned number) {
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(takes.height) * takes.width * takes.channels);
    std::uint32_t state = 2654435761u * (number + 1);
    for (std::size_t i = 0; i < pixels.size(); ++i) {
        state = state * 1664525u + 1013904223u;
        pixels[i] = static_cast<std::uint8_t>(60 + (i / 7 % 97) + (state >> 27));
    }
    return pixels;
}

inline kdx_image image_of(const kdx_description &takes, const std::vector<std::uint8_t> &pixels) {
    return {pixels.data(), takes.height, takes.width, takes.format, 0};
}
