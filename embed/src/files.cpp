#include "files.h"

#include <cstddef>
#include <fstream>

#include "error.h"

namespace kdx::embed {

std::string read_file(const std::filesystem::path &file) {
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    std::ifstream stream(file, std::ios::binary);
    std::string content(error ? 0 : static_cast<std::size_t>(size), '\0');
    if (error || !stream.read(content.data(), static_cast<std::streamsize>(content.size())))
        throw Failure(KDX_ERROR_BUNDLE, "'" + file.string() + "' cannot be read");
    return content;
}

}  // namespace kdx::embed
