// Decides whether a frame shows a part at all. The counterpart of kdx/imaging/frame_faults.py.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "frame.h"

namespace kdx::embed {

// Limits of one channel of a frame, as ChannelLimits in Python; NaN sets no limit.
struct ChannelLimits {
    static constexpr double kNoLimit = std::numeric_limits<double>::quiet_NaN();
    double darkest = kNoLimit, brightest = kNoLimit, contrast = kNoLimit, structure = kNoLimit, roughness = kNoLimit,
           lit = kNoLimit;
};

// What frames of real parts look like.
struct FrameLimits {
    // The largest share of samples at the sensor's black, and at its white, in a golden image, or in
    // most good images of the calibration; 1 sets no limit.
    double dark = 0, bright = 0;
    // Limits that calibration learned, in the graph's channel order; or empty.
    std::vector<ChannelLimits> channels = {};
};

// Returns KDX_FRAME_... bits. It counts the same samples as the Python function, which gives the
// reasons.
std::uint32_t faults_of(const Frame &frame, const FrameLimits &limits);

}  // namespace kdx::embed
