#include "camera_frames.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "demosaicing.h"
#include "error.h"
#include "pixel_formats.h"

namespace kdx::embed {

namespace {

// Returns the 8-bit value for each value up to the highest, as kdx/imaging/sixteen_bits.py computes
// it: in floats, rounded to the nearest and halves to the even.
std::vector<std::uint8_t> range_table(int low, int high, int highest) {
    std::vector<std::uint8_t> table(static_cast<std::size_t>(highest) + 1);
    const auto factor = static_cast<float>(255.0 / (high - low));
    for (int value = 0; value <= highest; ++value) {
        const float scaled = (static_cast<float>(value) - static_cast<float>(low)) * factor;
        table[value] = static_cast<std::uint8_t>(std::clamp(std::nearbyint(scaled), 0.0f, 255.0f));
    }
    return table;
}

void decode_grey(const Rows &rows, const PixelFormat &format, const FrameSpec &spec, std::uint8_t *pixels) {
    const auto values = components_of(rows, format);
    const int highest = (1 << format.bits) - 1;
    const auto table = format.bits == 8 ? range_table(0, 255, 255)
                                        : range_table(spec.sixteen_bit_low, spec.sixteen_bit_high, highest);
    for (const auto value : values) pixels = std::fill_n(pixels, spec.channels, table[value]);
}

void decode_colour(const Rows &rows, const PixelFormat &format, const FrameSpec &spec, std::uint8_t *pixels) {
    const int red = spec.bgr ? 2 : 0;
    if (format.luma_chroma) {
        const bool is_luma_first = format.components == "YUYV";
        for (int y = 0; y < rows.height; ++y) {
            const auto *pair = rows.data + y * rows.row_stride;
            for (int x = 0; x < rows.width; ++x, pixels += 3) {
                const int luma = pair[2 * (x % 2) + (is_luma_first ? 0 : 1)];
                const int cb = pair[is_luma_first ? 1 : 0], cr = pair[is_luma_first ? 3 : 2];
                const auto rgb = format.luma_chroma->rgb_of(luma, cb, cr);
                pixels[red] = rgb[0], pixels[1] = rgb[1], pixels[2 - red] = rgb[2];
                if (x % 2) pair += 4;
            }
        }
        return;
    }
    const auto values = components_of(rows, format);
    // kdx reads no colour files of 16 bits that could have declared a range.
    const int highest = (1 << format.bits) - 1;
    const auto table = range_table(0, highest, highest);
    const auto write = [&](std::uint16_t r, std::uint16_t g, std::uint16_t b) {
        pixels[red] = table[r], pixels[1] = table[g], pixels[2 - red] = table[b];
        pixels += 3;
    };
    if (format.is_bayer()) {
        demosaic(values, rows.height, rows.width, format.components,
                 [&](const std::uint16_t *rgb) { write(rgb[0], rgb[1], rgb[2]); });
        return;
    }
    const auto place_of_red = format.components.find('R'), place_of_blue = format.components.find('B');
    for (std::size_t i = 0; i < values.size(); i += format.components.size())
        write(values[i + place_of_red], values[i + 1], values[i + place_of_blue]);
}

}  // namespace

void decode_frame(const kdx_buffer &buffer, const FrameSpec &spec, std::uint8_t *pixels) {
    const auto &format = pixel_format_of(buffer.pixel_format);
    const auto size_of = [](int width, int height) {
        return std::to_string(width) + " x " + std::to_string(height) + " pixels";
    };
    if (buffer.height != spec.height || buffer.width != spec.width)
        throw Failure(KDX_ERROR_IMAGE, "the frame has the wrong size",
                      {size_of(spec.width, spec.height), size_of(buffer.width, buffer.height),
                       "export the bundle for this camera (kdx export --input-size)"});
    if (format.is_colour() && spec.channels == 1)
        throw Failure(KDX_ERROR_IMAGE, "the detector takes grey images, and " + format.name + " is colour",
                      {"a Mono format", format.name,
                       "choose a Mono format in the camera, or train with colour images"});
    const auto rows = rows_of(buffer, format);
    if (format.is_colour())
        decode_colour(rows, format, spec, pixels);
    else
        decode_grey(rows, format, spec, pixels);
}

}  // namespace kdx::embed
