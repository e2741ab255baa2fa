// Frames as cameras deliver them, with padded rows and with colour channels in either order.
#pragma once

#include <cstdint>

#include "kdx/kdx.h"

namespace kdx::embed {

// A checked image: rows of width * channels bytes.
struct Frame {
    const std::uint8_t *data;
    std::int64_t row_stride;
    int height, width, channels;
    bool swap;  // red and blue are in the opposite order to the graph's

    bool is_packed() const { return !swap && row_stride == std::int64_t{width} * channels; }
};

// Checks an image against what a graph accepts; throws Failure (KDX_ERROR_IMAGE,
// KDX_ERROR_ARGUMENT).
Frame frame_of(const kdx_image &image, int height, int width, int channels, bool bgr);

// Copies a frame into height * width * channels packed bytes, in the graph's channel order.
void pack(const Frame &frame, std::uint8_t *target);

}  // namespace kdx::embed
