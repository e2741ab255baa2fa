// The fields that Python requires of bundle.json, also those that this library does not use.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace kdx::embed {

// Checks that the fields of bundle.json are there and of the types that kdx/bundle/manifest.py
// declares. Throws Invalid, or nlohmann's json::exception.
void require_fields(const nlohmann::json &manifest);

}  // namespace kdx::embed
