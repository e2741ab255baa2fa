#include "blob_cache.h"

#include <chrono>
#include <cstdint>
#include <fstream>
#include <random>

#include "bundle.h"
#include "error.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;

namespace {
constexpr std::size_t kDigestBytes = 32;
}

fs::path BlobCache::file_of(const std::string &key) const {
    return folder_ / (hexadecimal(sha256_of(key)).substr(0, 40) + ".blob");
}

std::optional<std::string> BlobCache::read(const std::string &key) const {
    std::error_code error;
    if (folder_.empty() || !fs::is_regular_file(file_of(key), error)) return std::nullopt;
    try {
        auto content = read_file(file_of(key));
        if (content.size() < kDigestBytes) return std::nullopt;
        const auto blob = std::string_view(content).substr(kDigestBytes);
        const auto digest = sha256_of(blob);
        if (content.compare(0, kDigestBytes, reinterpret_cast<const char *>(digest.data()), kDigestBytes))
            return std::nullopt;
        return content.substr(kDigestBytes);
    } catch (const Failure &) {
        return std::nullopt;
    }
}

void BlobCache::write(const std::string &key, const std::string &blob) const {
    if (folder_.empty()) return;
    std::error_code error;
    fs::create_directories(folder_, error);
    // A name of its own, then a rename: two processes that start together never meet half a file.
    const auto now = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    const auto temporary = folder_ / (".new-" + std::to_string(now) + "-" + std::to_string(std::random_device{}()));
    {
        std::ofstream stream(temporary, std::ios::binary);
        const auto digest = sha256_of(blob);
        stream.write(reinterpret_cast<const char *>(digest.data()), kDigestBytes);
        stream.write(blob.data(), static_cast<std::streamsize>(blob.size()));
        stream.flush();
        if (!stream) {
            stream.close();
            fs::remove(temporary, error);
            return;
        }
    }
    fs::rename(temporary, file_of(key), error);
    if (error) fs::remove(temporary, error);
}

}  // namespace kdx::embed
