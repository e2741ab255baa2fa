#include "frame.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "error.h"

namespace kdx::embed {

namespace {

constexpr int kDark = 4, kBright = 251, kSamples = 128;
constexpr double kNearlyAll = 0.999, kBurntOut = 0.25, kTimesGolden = 2.0;

std::string described(int height, int width, const char *format) {
    return std::to_string(height) + " x " + std::to_string(width) + " " + format;
}

const char *name_of(kdx_pixel_format format) {
    return format == KDX_RGB8 ? "RGB8" : format == KDX_BGR8 ? "BGR8" : format == KDX_MONO8 ? "MONO8" : "of no known format";
}

// What is measured of one channel: see ChannelValues of kdx/imaging/frame_faults.py.
struct ChannelValues {
    double brightness, contrast, structure, roughness, lit;
};

// One channel's samples. Every sum is of whole numbers and exact, and so the same as in Python.
class Samples {
public:
    Samples(const Frame &frame, int channel, int down, int across)
        : height_((frame.height + down - 1) / down), width_((frame.width + across - 1) / across) {
        // Limits are in the graph's order, the frame's bytes may not be.
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
        // All the same, or too small to tell; else a pattern that repeats at every second sample.
        const bool is_plain = near == 0 || std::max(height_, width_) <= 2;
        const double structure = far > 0 ? 1 - near / far : is_plain ? 1 : -std::numeric_limits<double>::infinity();
        return {total / count, std::sqrt(variance), structure, variance > 0 ? near / (2 * variance) : 1,
                static_cast<double>(lit) / count};
    }

private:
    // The mean squared difference of samples so many steps apart, along both axes; 0 where there are none.
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

// A comparison with NaN, which is no limit, is false.
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

Frame frame_of(const kdx_image &image, int height, int width, int channels, bool bgr) {
    if (!image.data) throw Failure(KDX_ERROR_ARGUMENT, "the image has no data: its pointer is null");
    const kdx_pixel_format taken = channels == 1 ? KDX_MONO8 : bgr ? KDX_BGR8 : KDX_RGB8;
    const bool is_colour = image.format == KDX_RGB8 || image.format == KDX_BGR8;
    const bool is_taken = channels == 1 ? image.format == KDX_MONO8 : is_colour;
    if (image.height != height || image.width != width || !is_taken)
        throw Failure(KDX_ERROR_IMAGE,
                      "the image is not one that the detector takes\n  expected: " +
                          described(height, width, name_of(taken)) + "\n  received: " +
                          described(image.height, image.width, name_of(image.format)) +
                          "\n  fix: export with --input-size for this camera");
    const std::int64_t row = std::int64_t{width} * channels;
    if (image.row_stride != 0 && image.row_stride < row)
        throw Failure(KDX_ERROR_IMAGE, "the image's rows overlap: row_stride is " + std::to_string(image.row_stride) +
                                           ", a row has " + std::to_string(row) + " bytes");
    return {image.data, image.row_stride ? image.row_stride : row, height, width, channels,
            channels == 3 && image.format != taken};
}

void pack(const Frame &frame, std::uint8_t *target) {
    const auto row = static_cast<std::size_t>(frame.width) * frame.channels;
    for (int y = 0; y < frame.height; ++y, target += row) {
        const auto *source = frame.data + y * frame.row_stride;
        if (!frame.swap) {
            std::memcpy(target, source, row);
            continue;
        }
        for (std::size_t x = 0; x < row; x += 3)
            target[x] = source[x + 2], target[x + 1] = source[x + 1], target[x + 2] = source[x];
    }
}

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
    else if (bright_share > std::max(kBurntOut, kTimesGolden * limits.bright))
        faults |= KDX_FRAME_SATURATED;
    for (int c = 0; c < static_cast<int>(limits.channels.size()); ++c)
        faults |= channel_faults(Samples(frame, c, down, across).values(), limits.channels[c]);
    return faults;
}

}  // namespace kdx::embed
