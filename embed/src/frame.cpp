#include "frame.h"

#include <cstring>
#include <string>

#include "error.h"

namespace kdx::embed {

namespace {

std::string described(int height, int width, const char *format) {
    return std::to_string(height) + " x " + std::to_string(width) + " " + format;
}

const char *name_of(kdx_pixel_format format) {
    switch (format) {
        case KDX_RGB8: return "RGB8";
        case KDX_BGR8: return "BGR8";
        case KDX_MONO8: return "MONO8";
        default: return "in an unknown pixel format";
    }
}

}  // namespace

Frame frame_of(const kdx_image &image, int height, int width, int channels, bool bgr) {
    if (!image.data) throw Failure(KDX_ERROR_ARGUMENT, "the data pointer of the image is null");
    const kdx_pixel_format accepted = channels == 1 ? KDX_MONO8 : bgr ? KDX_BGR8 : KDX_RGB8;
    const bool is_colour = image.format == KDX_RGB8 || image.format == KDX_BGR8;
    const bool is_accepted = channels == 1 ? image.format == KDX_MONO8 : is_colour;
    if (image.height != height || image.width != width || !is_accepted)
        throw Failure(
            KDX_ERROR_IMAGE, "the detector does not accept this image",
            {described(height, width, name_of(accepted)), described(image.height, image.width, name_of(image.format)),
             "export the bundle for this camera (kdx export --input-size)"});
    const std::int64_t row = std::int64_t{width} * channels;
    if (image.row_stride != 0 && image.row_stride < row)
        throw Failure(KDX_ERROR_IMAGE, "the rows of the image overlap: its row_stride is too small",
                      {"at least " + std::to_string(row) + " bytes", std::to_string(image.row_stride) + " bytes", ""});
    return {image.data, image.row_stride ? image.row_stride : row, height, width,
            channels,   channels == 3 && image.format != accepted};
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

}  // namespace kdx::embed
