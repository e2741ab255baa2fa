// Frames as cameras deliver them: padded rows, channels in either order; and whether they show a part at all.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kdx/kdx.h"

namespace kdx::embed {

// What one channel of a frame must be like, as ChannelLimits of kdx/imaging/frame_faults.py has it; NaN sets no limit.
struct ChannelLimits {
    static constexpr double kNoLimit = std::numeric_limits<double>::quiet_NaN();
    double darkest = kNoLimit, brightest = kNoLimit, contrast = kNoLimit, structure = kNoLimit, roughness = kNoLimit,
           lit = kNoLimit;
};

// What frames of real parts look like: the largest share of samples at the sensor's black, and at its white, in a golden
// image; and what calibration learned of each channel, in the graph's order, or nothing.
struct FrameLimits {
    double dark = 0, bright = 0;
    std::vector<ChannelLimits> channels = {};
};

// A checked image: rows of width * channels bytes.
struct Frame {
    const std::uint8_t *data;
    std::int64_t row_stride;
    int height, width, channels;
    bool swap;  // red and blue are the other way round than the graph takes them

    bool is_packed() const { return !swap && row_stride == std::int64_t{width} * channels; }
};

// Checks an image against what a graph takes; throws Failure (KDX_ERROR_IMAGE, KDX_ERROR_ARGUMENT).
Frame frame_of(const kdx_image &image, int height, int width, int channels, bool bgr);

// Copies a frame into height * width * channels packed bytes, in the graph's order.
void pack(const Frame &frame, std::uint8_t *target);

// Returns KDX_FRAME_... bits. Counts the same samples as kdx/imaging/frame_faults.py, which says why.
std::uint32_t faults_of(const Frame &frame, const FrameLimits &limits);

}  // namespace kdx::embed
