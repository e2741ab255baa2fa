// The only exception inside the library. The C interface turns it into a status and a message.
#pragma once

#include <stdexcept>
#include <string>

#include "kdx/kdx.h"

namespace kdx::embed {

// What an error message says beside what is wrong. An empty text is left out.
struct Details {
    std::string expected, received, fix;
};

class Failure : public std::runtime_error {
public:
    Failure(kdx_status kind, const std::string &text, const Details &more = {})
        : std::runtime_error(text + line("expected", more.expected) + line("received", more.received) +
                             line("fix", more.fix)),
          status(kind),
          message(text),
          details(more) {}

    const kdx_status status;
    const std::string message;  // what is wrong, without the details
    const Details details;

private:
    static std::string line(const char *name, const std::string &text) {
        return text.empty() ? std::string() : std::string("\n  ") + name + ": " + text;
    }
};

}  // namespace kdx::embed
