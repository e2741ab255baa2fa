// The only exception inside the library. The C interface turns it into a status and a message.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kdx/kdx.h"
#include "text.h"

namespace kdx::embed {

// What an error message says beside what is wrong. An empty text is left out.
struct Details {
    std::string expected, received, fix;
};

class Failure : public std::runtime_error {
public:
    Failure(kdx_status kind, const std::string &text, const Details &more = {})
        : std::runtime_error(text + text_of(more)),
          status(kind),
          message(text),
          details(more) {}

    // Returns the text in at most `size` bytes: first what was received is shortened, then what was
    // expected, then what is wrong. The fix is the last that is cut.
    std::string within(std::size_t size) const {
        auto what_is_wrong = message;
        auto kept = details;
        const auto text = [&] { return what_is_wrong + text_of(kept); };
        for (auto *part : {&kept.received, &kept.expected, &what_is_wrong}) {
            const auto length = text().size();
            if (length <= size) break;
            *part = shortened(*part, length - size);
        }
        return text();
    }

    const kdx_status status;
    const std::string message;  // what is wrong, without the details
    const Details details;

private:
    static std::string text_of(const Details &more) {
        return line("expected", more.expected) + line("received", more.received) + line("fix", more.fix);
    }
    static std::string line(const char *name, const std::string &text) {
        return text.empty() ? std::string() : std::string("\n  ") + name + ": " + text;
    }
};

}  // namespace kdx::embed
