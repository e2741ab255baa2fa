#include "frame_faults.h"

#include <algorithm>
#include <cmath>

#include "kdx/kdx.h"

namespace kdx::embed {

namespace {

constexpr int kDark = 4, kBright = 251, kSamples = 128;
constexpr double kNearlyAll = 0.999, kOverexposed = 0.25, kTimesGolden = 2.0;

// Measurements of one channel, as ChannelValues of kdx/imaging/frame_faults.py.
struct ChannelValues {
    double brightness, contrast, structure, roughness, lit;
};

// The samples of one channel. Every sum adds integers; it is exact and therefore the same as in
// Python.
class Samples {
public:
    Samples(const Frame &frame, int channel, int down, int across)
        : height_((frame.height + down - 1) / down), width_((frame.width + across - 1) / across) {
        // Limits are in the graph's channel order; the frame's bytes may be in the other order.
        const int offset = frame.swap ? frame.channels - 1 - channel : channel;
        values_.reserve(static_cast<std::size_t>(height_) * width_);
        for (int y = 0; y < frame.height; y += down) {
            const auto *row = frame.data + y * frame.row_stride + offset;
            for (int x = 0; x < frame.width; x += across) values_.push_back(row[x * frame.channels]);
        }
    }

    ChannelValues values() const {
        std::uint64_t sum = 0, squares = 0, lit = 0;
        for (const auto value : values_) sum += value, squares += std::uint64_t{value} * value, lit += value > kDark;
        const auto count = static_cast<double>(values_.size()), total = static_cast<double>(sum);
        const double variance = (count * static_cast<double>(squares) - total * total) / (count * count);
        const double near = difference(1), far = difference(2);
        // The values are all equal or the frame is too small; otherwise a pattern repeats at every
        // second sample.
        const bool is_plain = near == 0 || std::max(height_, width_) <= 2;
        const double structure = far > 0 ? 1 - near / far : is_plain ? 1 : -std::numeric_limits<double>::infinity();
        return {total / count, std::sqrt(variance), structure, variance > 0 ? near / (2 * variance) : 1,
                static_cast<double>(lit) / count};
    }

private:
    // Returns the mean squared difference of samples `step` apart, along both axes; 0 if there are
    // none.
    double difference(int step) const {
        std::uint64_t squares = 0, count = 0;
        const auto add = [&](int y, int x, int other_y, int other_x) {
            const int found = at(other_y, other_x) - at(y, x);
            squares += static_cast<std::uint64_t>(found * found), ++count;
        };
        for (int y = 0; y < height_; ++y)
            for (int x = 0; x + step < width_; ++x) add(y, x, y, x + step);
        for (int y = 0; y + step < height_; ++y)
            for (int x = 0; x < width_; ++x) add(y, x, y + step, x);
        return count ? static_cast<double>(squares) / static_cast<double>(count) : 0;
    }

    int at(int y, int x) const { return values_[static_cast<std::size_t>(y) * width_ + x]; }

    const int height_, width_;
    std::vector<std::uint8_t> values_;
};

// NaN stands for no limit, and a comparison with NaN is false.
std::uint32_t channel_faults(const ChannelValues &values, const ChannelLimits &limits) {
    std::uint32_t faults = 0;
    if (values.brightness < limits.darkest) faults |= KDX_FRAME_DARK;
    if (values.brightness > limits.brightest) faults |= KDX_FRAME_BRIGHT;
    if (values.contrast < limits.contrast) faults |= KDX_FRAME_FLAT;
    if (values.structure < limits.structure) faults |= KDX_FRAME_NOISE;
    if (values.roughness < limits.roughness) faults |= KDX_FRAME_SMOOTH;
    if (values.lit < limits.lit) faults |= KDX_FRAME_PARTLY_BLACK;
    return faults;
}

}  // namespace

std::uint32_t faults_of(const Frame &frame, const FrameLimits &limits) {
    const int down = std::max(1, frame.height / kSamples), across = std::max(1, frame.width / kSamples);
    std::uint64_t dark = 0, bright = 0, total = 0;
    std::uint8_t least = 255, most = 0;
    for (int y = 0; y < frame.height; y += down) {
        const auto *row = frame.data + y * frame.row_stride;
        for (int x = 0; x < frame.width; x += across)
            for (int c = 0; c < frame.channels; ++c) {
                const auto value = row[x * frame.channels + c];
                dark += value <= kDark, bright += value >= kBright, ++total;
                least = std::min(least, value), most = std::max(most, value);
            }
    }
    const double dark_share = static_cast<double>(dark) / static_cast<double>(total);
    const double bright_share = static_cast<double>(bright) / static_cast<double>(total);
    std::uint32_t faults = 0;
    if (least == most) faults |= KDX_FRAME_UNIFORM;
    if (dark_share > std::max(kNearlyAll, limits.dark)) faults |= KDX_FRAME_BLACK;
    if (bright_share > std::max(kNearlyAll, limits.bright))
        faults |= KDX_FRAME_WHITE;
    else if (bright_share > std::max(kOverexposed, kTimesGolden * limits.bright))
        faults |= KDX_FRAME_SATURATED;
    for (int c = 0; c < static_cast<int>(limits.channels.size()); ++c)
        faults |= channel_faults(Samples(frame, c, down, across).values(), limits.channels[c]);
    return faults;
}

}  // namespace kdx::embed
