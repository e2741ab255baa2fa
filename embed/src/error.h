// The one exception inside the library; the C interface turns it into a status and a text.
#pragma once

#include <stdexcept>
#include <string>

#include "kdx/kdx.h"

namespace kdx::embed {

class Failure : public std::runtime_error {
public:
    Failure(kdx_status kind, const std::string &what) : std::runtime_error(what), status(kind) {}
    const kdx_status status;
};

}  // namespace kdx::embed
