#include "json_reading.h"

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

namespace kdx::embed {

using nlohmann::json;

namespace {

// The library copies and prints nested values by recursion, which ends the process when the stack
// is full. Records of kdx have less than ten levels.
constexpr int kDeepest = 100;
constexpr std::size_t kLongestText = 40;  // of a value in a message

}  // namespace

json parse_json(const std::string &text) {
    return json::parse(text, [](int depth, json::parse_event_t, const json &) {
        if (depth > kDeepest) throw Invalid{"it is nested too deep"};
        return true;
    });
}

int whole_number(const json &value, int low, int high) {
    const bool is_whole = value.is_number_integer();
    const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
                                                 : is_whole && value.get<std::int64_t>() <= high;
    if (!fits || value.get<std::int64_t>() < low)
        throw Invalid{"a number is not a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
                      ": " + value.dump().substr(0, kLongestText)};
    return value.get<int>();
}

std::vector<int> whole_numbers(const json &values, int low, int high) {
    if (!values.is_array()) throw Invalid{"a list of numbers is not a list"};
    std::vector<int> read;
    for (const auto &value : values) read.push_back(whole_number(value, low, high));
    return read;
}

}  // namespace kdx::embed
