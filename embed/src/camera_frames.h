// From a camera's buffer to the image that a detector accepts. The counterpart of
// kdx/imaging/camera_frames.py.
#pragma once

#include <cstdint>

#include "kdx/kdx.h"

namespace kdx::embed {

// What a detector accepts.
struct FrameSpec {
    int height, width, channels;
    bool bgr;
    int sixteen_bit_low, sixteen_bit_high;  // the two grey values that become 0 and 255
};

// Decodes a buffer into height * width * channels bytes; throws Failure (KDX_ERROR_IMAGE).
void decode_frame(const kdx_buffer &buffer, const FrameSpec &spec, std::uint8_t *pixels);

}  // namespace kdx::embed
