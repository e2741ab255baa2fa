// The pixel formats of cameras, by the names of GenICam. The counterpart of
// kdx/imaging/pixel_formats.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kdx/kdx.h"
#include "luma_chroma.h"

namespace kdx::embed {

// How the components of a row are stored: with one or two bytes of their own, the low byte first;
// bit by bit, the lowest bit first; or two in three bytes, the middle one with the low bits of both.
enum class Packing { whole, bit_by_bit, in_three_bytes };

struct PixelFormat {
    std::string name;
    std::string components;  // Mono, RGB, BGRa, the tile of a mosaic (RGGB), or two pixels (YUYV, UYVY)
    int bits = 8;            // of a component
    Packing packing = Packing::whole;
    const LumaChroma *luma_chroma = nullptr;

    bool is_bayer() const { return components == "RGGB" || components == "GRBG" || components == "GBRG" || components == "BGGR"; }
    bool is_colour() const { return components != "Mono"; }
    int per_pixel() const;        // components of a pixel in the buffer
    int pixels_in_group() const;  // the smallest number of pixels that ends with a byte
    std::int64_t bytes_in_row(int width) const;
};

// Returns the format of a name; throws Failure (KDX_ERROR_IMAGE) if the library does not know it.
const PixelFormat &pixel_format_of(const std::string &name);

// A checked buffer: rows of bytes.
struct Rows {
    const std::uint8_t *data;
    std::int64_t row_stride;
    int height, width;
};

// Checks the sizes of a buffer; throws Failure (KDX_ERROR_IMAGE).
Rows rows_of(const kdx_buffer &buffer, const PixelFormat &format);

// Returns the values of all components, row by row; throws Failure (KDX_ERROR_IMAGE) if one is
// above those of its bits.
std::vector<std::uint16_t> components_of(const Rows &rows, const PixelFormat &format);

}  // namespace kdx::embed
