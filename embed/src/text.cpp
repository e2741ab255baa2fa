#include "text.h"

#include <algorithm>
#include <cstring>

namespace kdx::embed {

namespace {

unsigned char byte_at(const char *text, std::size_t index) { return static_cast<unsigned char>(text[index]); }

// Returns the number of bytes of the UTF-8 character (RFC 3629) at the start of a 0-terminated
// text; 0 if it is invalid.
std::size_t length_of(const char *text) {
    const auto first = byte_at(text, 0), second = first < 0x80 ? first : byte_at(text, 1);
    const std::size_t length = first < 0x80   ? 1
                               : first < 0xc2 ? 0
                               : first < 0xe0 ? 2
                               : first < 0xf0 ? 3
                               : first < 0xf5 ? 4
                                              : 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte_at(text, i) & 0xc0) != 0x80) return 0;
    // Overlong encodings, surrogates, and values above the last character.
    const bool is_invalid = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
                            (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
    return is_invalid ? 0 : length;
}

bool is_control(const char *text, std::size_t length) {
    const auto first = byte_at(text, 0);
    if (length == 1) return first != '\n' && (first < 0x20 || first == 0x7f);
    return length == 2 && first == 0xc2 && byte_at(text, 1) < 0xa0;
}

constexpr char kCut[] = "\xe2\x80\xa6";  // "…"
constexpr std::size_t kCutBytes = sizeof kCut - 1;

}  // namespace

void copy_text(const char *text, char *target, std::size_t size) noexcept {
    std::size_t filled = 0, before_cut = 0;  // the last place from which there is room for "…"
    while (*text) {
        const auto length = length_of(text), taken = std::max<std::size_t>(length, 1);
        const bool is_shown = length && !is_control(text, length);
        if (filled + kCutBytes < size) before_cut = filled;
        if (filled + (is_shown ? length : 1) >= size) {
            if (size <= kCutBytes) break;
            std::memcpy(target + before_cut, kCut, kCutBytes);
            filled = before_cut + kCutBytes;
            break;
        }
        if (is_shown) {
            std::memcpy(target + filled, text, length);
            filled += length;
        } else {
            target[filled++] = '?';
        }
        text += taken;
    }
    target[filled] = '\0';
}

std::string shortened(const std::string &text, std::size_t bytes) {
    auto left = text.size() > bytes + kCutBytes ? text.size() - bytes - kCutBytes : 0;
    while (left && (byte_at(text.c_str(), left) & 0xc0) == 0x80) --left;  // within a character
    return left ? text.substr(0, left) + kCut : std::string();
}

}  // namespace kdx::embed
