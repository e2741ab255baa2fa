// Fuzzes the check of ONNX files: it accepts the input as plain or throws a Failure.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "error.h"
#include "plain_graph.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    try {
        kdx::embed::require_plain_graph({reinterpret_cast<const char *>(data), size}, "model.onnx", "tile.kdx");
    } catch (const kdx::embed::Failure &failure) {
        if (failure.status != KDX_ERROR_BUNDLE) __builtin_trap();
    }
    return 0;
}
