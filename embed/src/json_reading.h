// Reading JSON whose writer is not known.
#pragma once

#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kdx::embed {

// A record is invalid, or a value in it. The reader of the file names the file and the fix.
struct Invalid {
    std::string why;
};

// Parses a text. Throws Invalid if it is nested deeper than any record of kdx, and nlohmann's
// json::exception if it is not JSON.
nlohmann::json parse_json(const std::string &text);

// Return a whole number, or an array of them, within limits; throw Invalid for anything else.
// nlohmann's get<int>() cuts off fractions and high bits, and takes true for 1.
int whole_number(const nlohmann::json &value, int low, int high = std::numeric_limits<int>::max());
std::vector<int> whole_numbers(const nlohmann::json &values, int low, int high = std::numeric_limits<int>::max());

}  // namespace kdx::embed
