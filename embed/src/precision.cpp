#include "precision.h"

#include "words.h"

namespace kdx::embed {

namespace {

constexpr Word<Precision> kPrecisions[] = {
    {"fp32", Precision::fp32}, {"fp16", Precision::fp16}, {"bf16", Precision::bf16}, {"int8", Precision::int8}};
constexpr Word<Runtime> kRuntimes[] = {{"openvino", Runtime::openvino}, {"tensorrt", Runtime::tensorrt}};

}  // namespace

const char *name_of(Precision precision) { return word_for(kPrecisions, precision); }
const char *name_of(Runtime runtime) { return word_for(kRuntimes, runtime); }

std::optional<Precision> precision_named(std::string_view name) { return value_of(kPrecisions, name); }
std::optional<Runtime> runtime_named(std::string_view name) { return value_of(kRuntimes, name); }

}  // namespace kdx::embed
