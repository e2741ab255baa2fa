// Fuzzes the arguments of the C interface: sizes, strides, formats, structure sizes and null
// pointers, in any combination. All calls use one detector, which must stay usable.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kdx/kdx.h"
#include "test_bundle.h"

namespace {

class Bytes {
public:
    Bytes(const std::uint8_t *data, std::size_t size) : data_(data), size_(size) {}
    std::uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
    std::int64_t number() {
        std::int64_t value = 0;
        for (int i = 0; i < 8; ++i) value = value << 8 | byte();
        return value;
    }
    // Returns the right value in most cases, a value near it in many, and any value in some.
    std::int64_t near(std::int64_t right) {
        const auto kind = byte();
        return kind < 160 ? right : kind < 220 ? right + static_cast<std::int8_t>(byte()) : number();
    }

private:
    const std::uint8_t *data_;
    std::size_t size_, at_ = 0;
};

kdx_detector *detector = nullptr;
kdx_description takes;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    kdx_options options;
    KDX_INIT(options);
    options.threads = 1;
    options.precision = "fp32";
    KDX_INIT(takes);
    if (kdx_open(test_bundle(), &options, &detector) != KDX_OK || kdx_describe(detector, &takes) != KDX_OK)
        std::abort();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Bytes bytes(data, size);
    // The buffers have room for strides that exceed a row by this many bytes.
    constexpr std::int64_t kPadding = 128;
    const std::int64_t row = std::int64_t{takes.width} * takes.channels, map_row = std::int64_t{takes.map_width} * 4;
    static std::vector<std::uint8_t> pixels(static_cast<std::size_t>((row + kPadding) * takes.height), 90);
    static std::vector<float> map(static_cast<std::size_t>((map_row + kPadding) / 4 * takes.map_height));

    kdx_image image{};
    image.data = bytes.byte() < 240 ? pixels.data() : nullptr;
    image.height = static_cast<std::int32_t>(bytes.near(takes.height));
    image.width = static_cast<std::int32_t>(bytes.near(takes.width));
    image.format = static_cast<kdx_pixel_format>(bytes.near(takes.format));
    image.row_stride = bytes.near(row);
    // A larger stride exceeds the buffer.
    if (image.row_stride > row + kPadding) image.row_stride = row + kPadding;
    kdx_map target{bytes.byte() < 200 ? map.data() : nullptr, bytes.near(map_row) / 4 * 4};
    if (target.row_stride > map_row + kPadding) target.row_stride = map_row + kPadding;
    static const char *const formats[] = {"Mono8", "Mono10p", "Mono12Packed", "Mono14", "BayerRG8", "BGRa12", "YUV422_8", "?"};
    static std::vector<std::uint8_t> decoded(static_cast<std::size_t>(row * takes.height));
    kdx_buffer buffer;
    KDX_INIT(buffer);
    buffer.pixel_format = bytes.byte() < 250 ? formats[bytes.byte() % 8] : nullptr;
    buffer.height = static_cast<std::int32_t>(bytes.near(takes.height));
    buffer.width = static_cast<std::int32_t>(bytes.near(takes.width));
    buffer.row_stride = bytes.byte() < 128 ? 0 : bytes.near(row);
    // A copy of exactly the size, so that a sanitizer sees whoever reads beyond.
    const std::vector<std::uint8_t> sent(pixels.begin(), pixels.begin() + bytes.near(row * takes.height) % pixels.size());
    buffer.data = sent.data(), buffer.size = sent.size();
    kdx_image made;
    if (kdx_decode(detector, &buffer, decoded.data(), decoded.size(), &made) == KDX_OK)
        image = made;
    else if (made.data)
        __builtin_trap();
    kdx_verdict verdict;
    KDX_INIT(verdict);
    verdict.decision = KDX_GOOD;
    verdict.score = -1;
    if (bytes.byte() >= 240) {  // no valid size that exceeds the structure
        const auto wrong = static_cast<std::uint32_t>(bytes.number());
        verdict.struct_size = wrong < sizeof verdict || wrong > (1u << 16) ? wrong : 0;
    }
    const bool has_image = bytes.byte() < 245, has_verdict = bytes.byte() < 245, has_map = bytes.byte() < 128;
    const auto status = kdx_infer(bytes.byte() < 250 ? detector : nullptr, has_image ? &image : nullptr,
                                  has_verdict ? &verdict : nullptr, has_map ? &target : nullptr);
    if (status < KDX_OK || status >= KDX_ERROR_INTERNAL) __builtin_trap();
    if (status == KDX_OK && (!has_image || !has_verdict || !image.data || verdict.score < 0)) __builtin_trap();
    if (status != KDX_OK && verdict.decision != (has_verdict ? KDX_UNDECIDED : KDX_GOOD)) __builtin_trap();
    if (status != KDX_OK && std::strlen(kdx_last_error()) == 0) __builtin_trap();

    kdx_selftest_report report;
    KDX_INIT(report);
    if (bytes.byte() >= 254) {
        double budget = 0, percentile = 0;
        const auto one = bytes.number(), other = bytes.number();
        std::memcpy(&budget, &one, sizeof budget), std::memcpy(&percentile, &other, sizeof percentile);
        const auto tested =
            kdx_selftest(detector, budget, percentile, static_cast<std::int32_t>(bytes.byte()), &report);
        if (tested != KDX_OK && tested != KDX_ERROR_ARGUMENT) __builtin_trap();
    }
    return 0;
}
