#include "golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string_view>

#include "error.h"
#include "inflate.h"

namespace kdx::embed {

namespace {

[[noreturn]] void refuse_file(const std::string &what) {
    throw Failure(KDX_ERROR_BUNDLE, "a file of the bundle is damaged: " + what, {"", "", "export the bundle again"});
}

std::uint32_t big_endian(std::string_view bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
    return value;
}

// Returns the compressed pixels of a PNG with exactly this header.
std::string pixel_data(std::string_view file, int height, int width, int channels) {
    constexpr std::string_view signature("\x89PNG\r\n\x1a\n", 8);
    if (file.substr(0, 8) != signature) refuse_file("it is not a PNG image");
    std::string data;
    bool has_header = false;
    for (std::size_t at = 8; at + 12 <= file.size();) {
        const std::size_t length = big_endian(file.substr(at));
        const auto kind = file.substr(at + 4, 4);
        if (length > file.size() - at - 12) refuse_file("its data ends early");
        const auto body = file.substr(at + 8, length);
        at += 12 + length;
        if (kind == "IHDR") {
            const char colour = channels == 1 ? 0 : 2;
            const char expected[5] = {8, colour, 0, 0, 0};  // bits, colour, compression, filter, not interlaced
            has_header = length == 13 && big_endian(body) == static_cast<std::uint32_t>(width) &&
                         big_endian(body.substr(4)) == static_cast<std::uint32_t>(height) &&
                         body.substr(8) == std::string_view(expected, 5);
            if (!has_header) refuse_file("it does not have the size and kind of the detector's input");
        } else if (kind == "IDAT") {
            data += body;
        } else if (kind == "IEND") {
            break;
        }
    }
    if (!has_header) refuse_file("it has no header");
    return data;
}

std::uint8_t predicted(int left, int up, int corner) {
    const int estimate = left + up - corner;
    const int a = std::abs(estimate - left), b = std::abs(estimate - up), c = std::abs(estimate - corner);
    return static_cast<std::uint8_t>(a <= b && a <= c ? left : b <= c ? up : corner);
}

void undo_filter(int kind, std::uint8_t *row, const std::uint8_t *above, std::size_t size, std::size_t pixel) {
    if (kind > 4) refuse_file("the filter of a row is unknown");
    for (std::size_t x = 0; x < size; ++x) {
        const int left = x < pixel ? 0 : row[x - pixel], up = above ? above[x] : 0;
        const int corner = above && x >= pixel ? above[x - pixel] : 0;
        const int added = kind == 0   ? 0
                          : kind == 1 ? left
                          : kind == 2 ? up
                          : kind == 3 ? (left + up) / 2
                                      : predicted(left, up, corner);
        row[x] = static_cast<std::uint8_t>(row[x] + added);
    }
}

constexpr std::size_t kBeforeHeader = 10;  // bytes of an .npy file

// Returns the text that describes the array in an .npy file.
std::string_view header_of(const std::string &file) {
    constexpr std::string_view magic("\x93NUMPY\x01\x00", 8);
    if (file.size() < kBeforeHeader || std::string_view(file).substr(0, 8) != magic)
        refuse_file("it is not an .npy file of version 1.0");
    const std::size_t length = static_cast<std::uint8_t>(file[8]) | static_cast<std::uint8_t>(file[9]) << 8;
    return std::string_view(file).substr(kBeforeHeader, length);
}

// Writes a shape as NumPy does: (5, 64, 64).
std::string text_of(const std::vector<std::size_t> &shape) {
    std::string text;
    for (const auto length : shape) text += (text.empty() ? "(" : ", ") + std::to_string(length);
    return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace

void decode_png(const std::string &file, int height, int width, int channels, std::vector<std::uint8_t> &pixels) {
    const auto row = static_cast<std::size_t>(width) * channels;
    const auto filtered = inflate_zlib(pixel_data(file, height, width, channels), (row + 1) * height);
    const auto start = pixels.size();
    pixels.resize(start + row * height);
    for (int y = 0; y < height; ++y) {
        auto *target = pixels.data() + start + y * row;
        const auto *source = filtered.data() + y * (row + 1);
        std::memcpy(target, source + 1, row);
        undo_filter(source[0], target, y ? target - row : nullptr, row, static_cast<std::size_t>(channels));
    }
}

bool has_shape(const std::string &file, const std::vector<std::size_t> &shape) {
    return header_of(file).find("'shape': " + text_of(shape)) != std::string_view::npos;
}

std::vector<float> decode_npy(const std::string &file, const std::vector<std::size_t> &shape) {
    const auto header = header_of(file);
    const auto has = [&](const char *text) { return header.find(text) != std::string_view::npos; };
    if (!has("'descr': '<f4'") || !has("'fortran_order': False")) refuse_file("it does not hold float32 in C order");
    if (!has_shape(file, shape)) refuse_file("it is not an array of the shape " + text_of(shape));
    const auto count = std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
    const auto start = kBeforeHeader + header.size();
    if (file.size() != start + 4 * count) refuse_file("its size does not match its shape");
    std::vector<float> values(count);
    std::memcpy(values.data(), file.data() + start, 4 * count);
    return values;
}

Golden read_golden(const Bundle &bundle, Precision precision) {
    Golden golden;
    golden.count = bundle.golden.size();
    if (!golden.count) refuse_file("there are no golden images");
    for (const auto &name : bundle.golden)
        decode_png(bundle.read("golden/" + name), bundle.height, bundle.width, bundle.channels, golden.images);
    if (bundle.bgr)  // the files are RGB
        for (std::size_t i = 0; i < golden.images.size(); i += 3) std::swap(golden.images[i], golden.images[i + 2]);
    const auto height = static_cast<std::size_t>(bundle.map_height);
    const auto width = static_cast<std::size_t>(bundle.map_width);
    const auto [maps, scores] = bundle.reference_files(precision);
    golden.maps = decode_npy(bundle.read(maps), {golden.count, height, width});
    golden.scores = decode_npy(bundle.read(scores), {golden.count, 1});
    for (const auto *values : {&golden.maps, &golden.scores})
        if (!std::all_of(values->begin(), values->end(), [](float value) { return std::isfinite(value); }))
            refuse_file("the reference has values that are not finite");
    return golden;
}

}  // namespace kdx::embed
