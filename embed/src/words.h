// Enumerations that files spell as words. A word is looked up once, when the file is parsed.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace kdx::embed {

template <class T>
struct Word {
    const char *text;
    T value;
};

// Returns the value that a word stands for; nothing for an unknown word.
template <class T, std::size_t count>
std::optional<T> value_of(const Word<T> (&words)[count], std::string_view text) {
    for (const auto &word : words)
        if (text == word.text) return word.value;
    return std::nullopt;
}

template <class T, std::size_t count>
const char *word_for(const Word<T> (&words)[count], T value) {
    for (const auto &word : words)
        if (word.value == value) return word.text;
    return "";
}

}  // namespace kdx::embed
