// In which precision a graph computes, and in which runtime.
#pragma once

#include <optional>
#include <string_view>

namespace kdx::embed {

enum class Precision { fp32, fp16, bf16, int8 };

// The runtimes that this library can be built with. A backend has the name of its runtime.
enum class Runtime { openvino, tensorrt };

const char *name_of(Precision precision);
const char *name_of(Runtime runtime);

// Look up a name; nothing for an unknown one.
std::optional<Precision> precision_named(std::string_view name);
std::optional<Runtime> runtime_named(std::string_view name);

// Whether a precision changes scores so much that it needs a threshold of its own in every runtime.
// FP16 uses the threshold of FP32.
inline bool has_own_threshold(Precision precision) {
    return precision == Precision::bf16 || precision == Precision::int8;
}

}  // namespace kdx::embed
