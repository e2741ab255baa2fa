// Fuzzes the readers of golden images and reference arrays: they accept the input or throw a
// Failure.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "golden.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const std::string file(reinterpret_cast<const char *>(data), size);
    for (const int channels : {1, 3}) {
        std::vector<std::uint8_t> pixels;
        try {
            kdx::embed::decode_png(file, 64, 64, channels, pixels);
            if (pixels.size() != 64u * 64 * channels) __builtin_trap();
        } catch (const kdx::embed::Failure &failure) {
            if (failure.status != KDX_ERROR_BUNDLE) __builtin_trap();
        }
    }
    try {
        if (kdx::embed::decode_npy(file, {4, 1}).size() != 4) __builtin_trap();
    } catch (const kdx::embed::Failure &failure) {
        if (failure.status != KDX_ERROR_BUNDLE) __builtin_trap();
    }
    return 0;
}
