// kdx_pixel_formats: buffers of cameras become images.
// kdx_pixel_formats NAME HEIGHT WIDTH STRIDE CHANNELS BGR LOW HIGH: decodes standard input to
// standard output, for a comparison with Python.
#include "pixel_formats.h"

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "camera_frames.h"
#include "check.h"
#include "support.h"

namespace ke = kdx::embed;

namespace {

using Bytes = std::vector<std::uint8_t>;

kdx_buffer buffer_of(const Bytes &data, const char *name, int height, int width, std::int64_t stride = 0) {
    kdx_buffer buffer;
    KDX_INIT(buffer);
    buffer.data = data.data(), buffer.size = data.size(), buffer.pixel_format = name;
    buffer.height = height, buffer.width = width, buffer.row_stride = stride;
    return buffer;
}

std::vector<std::uint16_t> values_of(const Bytes &data, const char *name, int height, int width) {
    const auto buffer = buffer_of(data, name, height, width);
    const auto &format = ke::pixel_format_of(name);
    return ke::components_of(ke::rows_of(buffer, format), format);
}

Bytes decoded(const Bytes &data, const char *name, int height, int width, const ke::FrameSpec &spec,
              std::int64_t stride = 0) {
    Bytes pixels(static_cast<std::size_t>(spec.height) * spec.width * spec.channels);
    ke::decode_frame(buffer_of(data, name, height, width, stride), spec, pixels.data());
    return pixels;
}

void the_packed_layouts_of_two_standards_differ() {
    using Values = std::vector<std::uint16_t>;
    const Bytes data = {0x12, 0x34, 0x56};
    CHECK((values_of(data, "Mono12p", 1, 2) == Values{0x412, 0x563}));
    CHECK((values_of(data, "Mono12Packed", 1, 2) == Values{0x124, 0x563}));
    CHECK((values_of(data, "Mono10Packed", 1, 2) == Values{0x12 * 4 + 0, 0x56 * 4 + 3}));
    CHECK((values_of({0xFF, 0x03, 0, 0, 0}, "Mono10p", 1, 4) == Values{1023, 0, 0, 0}));
    CHECK((values_of({0x34, 0x12}, "Mono16", 1, 1) == Values{0x1234}));
}

void colours_stand_where_the_name_says() {
    Bytes mosaic(16);
    for (const int at : {0, 2, 8, 10}) mosaic[at] = 200;  // every second pixel of every second row
    const ke::FrameSpec rgb{4, 4, 3, false, 0, 65535}, bgr{4, 4, 3, true, 0, 65535};
    const auto first = [&](const char *name, const ke::FrameSpec &spec) {
        const auto pixels = decoded(mosaic, name, 4, 4, spec);
        return Bytes(pixels.begin(), pixels.begin() + 3);
    };
    CHECK((first("BayerRG8", rgb) == Bytes{200, 0, 0}));
    CHECK((first("BayerRG8", bgr) == Bytes{0, 0, 200}));
    CHECK((first("BayerBG8", rgb) == Bytes{0, 0, 200}));
    CHECK((first("BayerGR8", rgb) == Bytes{0, 200, 0}));
    const ke::FrameSpec one{1, 1, 3, false, 0, 65535};
    CHECK((decoded({1, 2, 3}, "BGR8", 1, 1, one) == Bytes{3, 2, 1}));
    CHECK((decoded({1, 2, 3, 4}, "RGBa8", 1, 1, one) == Bytes{1, 2, 3}));
    CHECK((decoded({7}, "Mono8", 1, 1, one) == Bytes{7, 7, 7}));
    const ke::FrameSpec two{1, 2, 3, false, 0, 65535};
    CHECK((decoded({235, 128, 16, 128}, "YCbCr601_422_8", 1, 2, two) == Bytes{255, 255, 255, 0, 0, 0}));
}

void deep_grey_is_scaled_by_the_range_of_the_bundle() {
    const ke::FrameSpec spec{1, 4, 1, false, 0, 4095};
    CHECK((decoded({0, 0, 8, 0, 0xFF, 0x0F, 0xFF, 0x0F}, "Mono12", 1, 4, spec) == Bytes{0, 0, 255, 255}));
    CHECK((decoded({8, 0, 9, 0, 0xFF, 0xFF, 0, 8}, "Mono16", 1, 4, spec) == Bytes{0, 1, 255, 128}));
}

// The buffers have no byte to spare, so that a sanitizer sees whoever reads beyond.
void padded_rows_are_read_by_their_stride() {
    for (const char *name : {"Mono8", "Mono12", "Mono10p", "Mono12Packed", "BayerGB14p", "BGRa8", "YUV422_8"}) {
        const auto &format = ke::pixel_format_of(name);
        const int height = 4, width = 8;
        const auto row = static_cast<std::size_t>(format.bytes_in_row(width));
        const ke::FrameSpec spec{height, width, 3, false, 0, 65535};
        Bytes whole(row * height), padded((row + 3) * (height - 1) + row);
        for (std::size_t i = 0; i < whole.size(); ++i) {
            whole[i] = static_cast<std::uint8_t>(i % 2 ? i % 16 : i * 37);
            padded[i / row * (row + 3) + i % row] = whole[i];
        }
        CHECK(decoded(whole, name, height, width, spec) ==
              decoded(padded, name, height, width, spec, static_cast<std::int64_t>(row) + 3));
        padded.resize(padded.size() + 3);
        CHECK(decoded(whole, name, height, width, spec) ==
              decoded(padded, name, height, width, spec, static_cast<std::int64_t>(row) + 3));
    }
}

void a_buffer_that_is_not_what_it_is_called_is_refused() {
    const auto said = [](const Bytes &data, const char *name, int height, int width, std::int64_t stride = 0) {
        std::string message;
        const ke::FrameSpec spec{height, width, 3, false, 0, 65535};
        CHECK(status_of([&] { decoded(data, name, height, width, spec, stride); }, &message) == KDX_ERROR_IMAGE);
        return message;
    };
    const Bytes sixteen(16), full(32, 255);
    CHECK(contains(said(Bytes(15), "Mono8", 4, 4), "does not have the size of Mono8"));
    CHECK(contains(said(Bytes(17), "Mono8", 4, 4), "17 bytes"));
    CHECK(contains(said(sixteen, "Mono8", 4, 4, 3), "row_stride is too small"));
    CHECK(contains(said(sixteen, "Mono8", 4, 4, -4), "row_stride is too small"));
    CHECK(contains(said(sixteen, "Mono8", 4, 4, 5), "rows of 5 bytes"));
    CHECK(contains(said(sixteen, "Mono8", 4, 4, INT64_MAX), "does not have the size"));
    CHECK(contains(said(sixteen, "Mono8", 1, 4, INT64_MAX), "does not have the size"));
    CHECK(contains(said(Bytes(9), "Mono12p", 2, 3), "multiple of 2"));
    CHECK(contains(said(Bytes(9), "Mono12Packed", 2, 3), "multiple of 2"));
    CHECK(contains(said(Bytes(15), "Mono10p", 2, 6), "multiple of 4"));
    CHECK(contains(said(Bytes(12), "YUV422_8", 2, 3), "multiple of 2"));
    CHECK(contains(said(Bytes(4), "BayerRG8", 1, 4), "at least 2 x 2"));
    CHECK(contains(said(sixteen, "mono8", 4, 4), "unknown pixel format"));
    CHECK(contains(said(full, "Mono12", 4, 4), "more than 12 bits"));
    CHECK(contains(said(full, "BayerRG10", 4, 4), "is not BayerRG10"));
    std::string message;
    const ke::FrameSpec grey{4, 4, 1, false, 0, 65535};
    CHECK(status_of([&] { decoded(sixteen, "BayerRG8", 4, 4, grey); }, &message) == KDX_ERROR_IMAGE);
    CHECK(contains(message, "takes grey images"));
    CHECK(status_of([&] { decoded(sixteen, "Mono8", 2, 8, grey); }, &message) == KDX_ERROR_IMAGE);
    CHECK(contains(message, "wrong size"));
}

int decode(char **arguments) {
    const Bytes data{std::istreambuf_iterator<char>(std::cin), {}};
    const auto number = [&](int index) { return std::atoi(arguments[index]); };
    const ke::FrameSpec spec{number(1), number(2), number(4), number(5) != 0, number(6), number(7)};
    const auto pixels = decoded(data, arguments[0], spec.height, spec.width, spec, number(3));
    std::cout.write(reinterpret_cast<const char *>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
    return 0;
}

}  // namespace

int main(int argc, char **argv) try {
    if (argc == 9) return decode(argv + 1);
    the_packed_layouts_of_two_standards_differ();
    colours_stand_where_the_name_says();
    deep_grey_is_scaled_by_the_range_of_the_bundle();
    padded_rows_are_read_by_their_stride();
    a_buffer_that_is_not_what_it_is_called_is_refused();
    return status();
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
