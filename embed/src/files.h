// Reading files.
#pragma once

#include <filesystem>
#include <string>

namespace kdx::embed {

// Reads a whole file; throws Failure (KDX_ERROR_BUNDLE).
std::string read_file(const std::filesystem::path &file);

}  // namespace kdx::embed
