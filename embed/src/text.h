// Text for callers. Messages quote names from bundles, which may come from anyone.
#pragma once

#include <cstddef>
#include <string>

namespace kdx::embed {

// Copies a text into `size` bytes including the final 0. A text that is too long is cut after a
// whole character, and ends with "…". Bytes that are not UTF-8, and control characters that a terminal would obey,
// become question marks. Allocates no memory.
void copy_text(const char *text, char *target, std::size_t size) noexcept;

// Returns a text without at least so many bytes at its end, of which "…" tells; empty if nothing
// would be left.
std::string shortened(const std::string &text, std::size_t bytes);

}  // namespace kdx::embed
