// The content of bundle.json. The counterpart of kdx/bundle/manifest.py.
#pragma once

#include <filesystem>
#include <string>

#include "bundle.h"

namespace kdx::embed {

// Parses the text of bundle.json and checks its values; throws Failure (KDX_ERROR_BUNDLE). It opens
// no file, so a fuzzer can call it. path: the bundle's folder, for messages and later reading.
Bundle parse_manifest(const std::string &text, const std::filesystem::path &path);

}  // namespace kdx::embed
