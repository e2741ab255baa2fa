// Text for callers: what a message quotes, such as a name out of a bundle, may be anybody's.
#pragma once

#include <cstddef>

namespace kdx::embed {

// Copies a text into size bytes, of which the last is 0: as much of it as there is room for, in whole characters. What is not
// UTF-8, and what would steer the terminal on which it is shown, becomes a question mark. Takes no memory.
void copy_text(const char *text, char *target, std::size_t size) noexcept;

}  // namespace kdx::embed
