// DEFLATE (RFC 1951) in the zlib format (RFC 1950). With it, the golden images need no library that
// a line PC may lack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace kdx::embed {

// Returns exactly `size` bytes; throws Failure (KDX_ERROR_BUNDLE) unless the stream is complete,
// valid and of that size.
std::vector<std::uint8_t> inflate_zlib(std::string_view stream, std::size_t size);

}  // namespace kdx::embed
