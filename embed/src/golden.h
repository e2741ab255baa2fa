// The golden images of a bundle, and the FP32 reference's answers: what the self-test compares with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

struct Golden {
    std::size_t count = 0;
    std::vector<std::uint8_t> images;  // (count, height, width, channels), in the graph's channel order
    std::vector<float> maps;           // (count, map_height, map_width)
    std::vector<float> scores;         // (count)
};

// Throws Failure (KDX_ERROR_BUNDLE).
Golden read_golden(const Bundle &bundle);

// Pixels of a PNG file of 8 bits a channel, grey or RGB, not interlaced: what kdx export writes, and nothing else.
// Appends height * width * channels bytes; throws Failure (KDX_ERROR_BUNDLE).
void decode_png(const std::string &file, int height, int width, int channels, std::vector<std::uint8_t> &pixels);

// Values of an .npy file of little-endian float32 in C order with exactly this many; throws Failure (KDX_ERROR_BUNDLE).
std::vector<float> decode_npy(const std::string &file, std::size_t count);

}  // namespace kdx::embed
