// Reading files.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

namespace kdx::embed {

// Whether there is a file, and not a folder. Throws Failure (KDX_ERROR_BUNDLE) if that cannot be
// found out, as in a folder that this user may not search.
bool has_file(const std::filesystem::path &file);

// Throws Failure (KDX_ERROR_BUNDLE) for a file or folder that the system refuses to read.
[[noreturn]] void refuse_unreadable(const std::filesystem::path &path, const std::error_code &error);

// Returns the reason for which the system refused the last call; call it before any other.
std::error_code last_error_code();

// Reads a whole file; throws Failure (KDX_ERROR_BUNDLE) with the system's reason.
std::string read_file(const std::filesystem::path &file);

}  // namespace kdx::embed
