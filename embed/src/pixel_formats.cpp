#include "pixel_formats.h"

#include <algorithm>
#include <map>
#include <utility>

#include "error.h"

namespace kdx::embed {

namespace {

using Formats = std::map<std::string, PixelFormat>;

void add_format(Formats &formats, const PixelFormat &format) { formats.emplace(format.name, format); }

Formats all_formats() {
    static const LumaChroma full(0.299, 0.114, true), bt601(0.299, 0.114, false), bt709(0.2126, 0.0722, false);
    Formats formats;
    const std::pair<const char *, const char *> mosaics[] = {
        {"Mono", "Mono"}, {"BayerGR", "GRBG"}, {"BayerRG", "RGGB"}, {"BayerGB", "GBRG"}, {"BayerBG", "BGGR"}};
    for (const auto &[prefix, components] : mosaics) {
        const auto named = [name = std::string(prefix)](int bits) { return name + std::to_string(bits); };
        for (const int bits : {8, 10, 12, 14, 16}) add_format(formats, {named(bits), components, bits});
        for (const int bits : {10, 12, 14}) add_format(formats, {named(bits) + "p", components, bits, Packing::bit_by_bit});
        for (const int bits : {10, 12})
            add_format(formats, {named(bits) + "Packed", components, bits, Packing::in_three_bytes});
    }
    for (const std::string components : {"RGB", "BGR", "RGBa", "BGRa"})
        for (const int bits : {8, 10, 12, 14, 16}) add_format(formats, {components + std::to_string(bits), components, bits});
    const std::pair<const char *, const LumaChroma *> standards[] = {
        {"YUV", &full}, {"YCbCr", &full}, {"YCbCr601_", &bt601}, {"YCbCr709_", &bt709}};
    for (const auto &[prefix, standard] : standards) {
        const auto name = std::string(prefix) + "422_8", other = std::string(name == "YUV422_8" ? "_UYVY" : "_CbYCrY");
        add_format(formats, {name, "YUYV", 8, Packing::whole, standard});
        add_format(formats, {name + other, "UYVY", 8, Packing::whole, standard});
    }
    // GigE Vision 1.2 had other names for these.
    const std::pair<const char *, const char *> old_names[] = {
        {"RGB8Packed", "RGB8"},   {"BGR8Packed", "BGR8"},             {"RGBA8Packed", "RGBa8"},
        {"BGRA8Packed", "BGRa8"}, {"YUV422Packed", "YUV422_8_UYVY"}, {"YUV422YUYVPacked", "YUV422_8"}};
    for (const auto &[old, name] : old_names) formats.emplace(old, formats.at(name));
    return formats;
}

std::string pixels_of(int width, int height) { return std::to_string(width) + " x " + std::to_string(height) + " pixels"; }

[[noreturn]] void refuse_buffer(const std::string &what, const Details &details) {
    throw Failure(KDX_ERROR_IMAGE, what, details);
}

void unpack_bits(const std::uint8_t *row, std::size_t count, int bits, std::uint16_t *values) {
    const auto mask = (1u << bits) - 1;
    std::uint64_t waiting = 0;
    int have = 0;
    for (std::size_t i = 0; i < count; ++i) {
        for (; have < bits; have += 8) waiting |= std::uint64_t{*row++} << have;
        values[i] = static_cast<std::uint16_t>(waiting & mask);
        waiting >>= bits, have -= bits;
    }
}

void unpack_three_bytes(const std::uint8_t *row, std::size_t count, int bits, std::uint16_t *values) {
    const int low = bits - 8, mask = (1 << low) - 1;
    for (std::size_t i = 0; i < count; i += 2, row += 3) {
        values[i] = static_cast<std::uint16_t>(row[0] << low | (row[1] & mask));
        values[i + 1] = static_cast<std::uint16_t>(row[2] << low | (row[1] >> 4 & mask));
    }
}

}  // namespace

int PixelFormat::per_pixel() const {
    if (luma_chroma) return 2;
    return is_bayer() || !is_colour() ? 1 : static_cast<int>(components.size());
}

int PixelFormat::pixels_in_group() const {
    if (luma_chroma || packing == Packing::in_three_bytes) return 2;
    if (packing == Packing::whole) return 1;
    return bits % 4 ? 4 : 2;  // of 10, 12 and 14 bits
}

std::int64_t PixelFormat::bytes_in_row(int width) const {
    const int stored = packing == Packing::bit_by_bit ? bits : packing == Packing::in_three_bytes ? 12 : bits == 8 ? 8 : 16;
    return std::int64_t{width} * per_pixel() * stored / 8;
}

const PixelFormat &pixel_format_of(const std::string &name) {
    static const Formats formats = all_formats();
    const auto found = formats.find(name);
    if (found == formats.end())
        refuse_buffer("unknown pixel format", {"a name of GenICam, such as Mono8, Mono12p, BayerRG8, BGR8 or YCbCr422_8", name,
                                        "choose one that docs/deployment/pixel-formats.md lists"});
    return found->second;
}

Rows rows_of(const kdx_buffer &buffer, const PixelFormat &format) {
    const int height = buffer.height, width = buffer.width, least = format.is_bayer() ? 2 : 1;
    if (std::min(height, width) < least)
        refuse_buffer("the image is too small", {"at least " + pixels_of(least, least), pixels_of(width, height), ""});
    if (width % format.pixels_in_group())
        refuse_buffer("rows of " + format.name + " would end within a byte, or between two pixels that share bytes",
               {"a width that is a multiple of " + std::to_string(format.pixels_in_group()),
                std::to_string(width) + " pixels", "choose such a width in the camera"});
    const auto row = format.bytes_in_row(width), step = buffer.row_stride ? buffer.row_stride : row;
    if (step < row)
        refuse_buffer("the rows of the buffer overlap: its row_stride is too small",
               {"at least " + std::to_string(row) + " bytes", std::to_string(step) + " bytes", ""});
    // A stride that exceeds the buffer would overflow the product.
    const auto size = static_cast<std::uint64_t>(buffer.size), rows = static_cast<std::uint64_t>(height - 1);
    const bool fits = rows == 0 || static_cast<std::uint64_t>(step) <= size / rows;
    const auto before = fits ? rows * static_cast<std::uint64_t>(step) : 0;
    const auto last = size - before;  // the last row may have no padding
    if (!fits || (last != static_cast<std::uint64_t>(row) && last != static_cast<std::uint64_t>(step)))
        refuse_buffer("the buffer does not have the size of " + format.name,
               {pixels_of(width, height) + " in rows of " + std::to_string(step) + " bytes",
                std::to_string(size) + " bytes",
                "pass the buffer's own width, height, pixel format and row_stride, and only the bytes of the image"});
    return {static_cast<const std::uint8_t *>(buffer.data), step, height, width};
}

std::vector<std::uint16_t> components_of(const Rows &rows, const PixelFormat &format) {
    const auto count = static_cast<std::size_t>(rows.width) * format.per_pixel();
    std::vector<std::uint16_t> values(count * rows.height);
    for (int y = 0; y < rows.height; ++y) {
        const auto *row = rows.data + y * rows.row_stride;
        auto *target = values.data() + y * count;
        if (format.packing == Packing::bit_by_bit)
            unpack_bits(row, count, format.bits, target);
        else if (format.packing == Packing::in_three_bytes)
            unpack_three_bytes(row, count, format.bits, target);
        else if (format.bits == 8)
            std::copy_n(row, count, target);
        else
            for (std::size_t i = 0; i < count; ++i)
                target[i] = static_cast<std::uint16_t>(row[2 * i] | row[2 * i + 1] << 8);
    }
    const int highest = *std::max_element(values.begin(), values.end());
    if (highest >> format.bits)  // the bits above must be zero
        refuse_buffer("the buffer is not " + format.name + ": it has values of more than " + std::to_string(format.bits) + " bits",
               {"at most " + std::to_string((1 << format.bits) - 1), std::to_string(highest),
                "pass the pixel format that the camera sends"});
    return values;
}

}  // namespace kdx::embed
