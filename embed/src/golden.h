// The golden images of a bundle and the answers of the reference, with which the self-test
// compares. The reference is FP32; of INT8 students, it is the module that they were trained as.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"

namespace kdx::embed {

struct Golden {
    std::size_t count = 0;
    std::vector<std::uint8_t> images;  // (count, height, width, channels), as the graph takes them
    std::vector<float> maps;           // (count, map_height, map_width)
    std::vector<float> scores;         // (count)
};

// Reads them from a bundle, with the answers that a precision is compared with; throws Failure
// (KDX_ERROR_BUNDLE).
Golden read_golden(const Bundle &bundle, Precision precision = Precision::fp32);

// Appends the height * width * channels bytes of a PNG file to `pixels`. The file must be what kdx
// export writes: 8 bits per channel, grey or RGB, not interlaced. Throws Failure
// (KDX_ERROR_BUNDLE).
void decode_png(const std::string &file, int height, int width, int channels, std::vector<std::uint8_t> &pixels);

// Whether the header of an .npy file names this shape.
bool has_shape(const std::string &file, const std::vector<std::size_t> &shape);

// Returns the values of an .npy file of little-endian float32 in C order. Throws Failure
// (KDX_ERROR_BUNDLE) for other files, and for another shape: the same number of values in another
// shape is another array.
std::vector<float> decode_npy(const std::string &file, const std::vector<std::size_t> &shape);

}  // namespace kdx::embed
