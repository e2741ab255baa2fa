#include "files.h"

#include <cerrno>
#include <cstddef>
#include <fstream>

#include "error.h"

namespace kdx::embed {

namespace fs = std::filesystem;

bool has_file(const fs::path &file) {
    std::error_code error;
    const auto found = fs::status(file, error);
    // The status of a file that does not exist is known, although that sets an error too.
    if (!fs::status_known(found)) refuse_unreadable(file, error);
    return fs::is_regular_file(found);
}

void refuse_unreadable(const fs::path &path, const std::error_code &error) {
    throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' cannot be read: " + error.message());
}

std::error_code last_error_code() {
    return errno ? std::error_code(errno, std::generic_category()) : std::make_error_code(std::errc::io_error);
}

std::string read_file(const fs::path &file) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    if (error) refuse_unreadable(file, error);
    errno = 0;
    std::ifstream stream(file, std::ios::binary);
    std::string content(static_cast<std::size_t>(size), '\0');
    if (!stream || !stream.read(content.data(), static_cast<std::streamsize>(content.size())))
        refuse_unreadable(file, last_error_code());
    return content;
}

}  // namespace kdx::embed
