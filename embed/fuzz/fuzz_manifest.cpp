// Fuzzes the parser of bundle.json: it accepts the input or throws a Failure. It opens no file.
#include <cstddef>
#include <cstdint>
#include <string>

#include "error.h"
#include "manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    try {
        const auto bundle =
            kdx::embed::parse_manifest(std::string(reinterpret_cast<const char *>(data), size), "tile.kdx");
        if (bundle.height < 1 || bundle.map_width < 1 || !bundle.has(kdx::embed::Precision::fp32)) __builtin_trap();
        for (const auto &[name, hash] : bundle.files)
            if (name.find("..") == 0 || name.front() == '/') __builtin_trap();
    } catch (const kdx::embed::Failure &failure) {
        if (failure.status != KDX_ERROR_BUNDLE) __builtin_trap();
    }
    return 0;
}
