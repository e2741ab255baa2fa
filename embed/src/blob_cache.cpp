#include "blob_cache.h"

#include <chrono>
#include <cstdint>
#include <fstream>
#include <random>
#if !defined(_WIN32)
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "error.h"
#include "files.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kDigestBytes = 32;

[[noreturn]] void refuse_cache(const fs::path &folder, const std::string &why) {
    throw Failure(KDX_ERROR_ARGUMENT,
                  "a signature is required, and the cache '" + folder.string() + "' cannot be used: " + why,
                  {"", "", "name a folder to which only this user can write (chmod go-w), or no cache"});
}

#if defined(_WIN32)
bool is_ours(const fs::path &, bool) { return false; }

void require_private(const fs::path &folder) {
    refuse_cache(folder, "kdx cannot find out on this system who may write to it");
}
#else
// Whether only this user and root can write to a path. In a sticky folder, such as /tmp, other
// users cannot move files that they do not own.
bool is_ours(const fs::path &path, bool may_be_sticky) {
    struct stat found{};
    if (::stat(path.c_str(), &found) != 0 || (found.st_uid != ::geteuid() && found.st_uid != 0)) return false;
    return !(found.st_mode & (S_IWGRP | S_IWOTH)) || (may_be_sticky && (found.st_mode & S_ISVTX));
}

void require_private(const fs::path &folder) {
    std::error_code error;
    auto at = fs::canonical(folder, error);
    if (error) refuse_cache(folder, error.message());
    for (bool is_leaf = true;; is_leaf = false, at = at.parent_path()) {
        if (!is_ours(at, !is_leaf))
            refuse_cache(folder, "others may write to '" + at.string() + "', and could choose what runs");
        if (at == at.root_path()) return;
    }
}
#endif

}  // namespace

BlobCache::BlobCache(fs::path folder, bool is_private)
    : folder_(std::move(folder)), is_private_(is_private && !folder_.empty()) {
    if (!is_private_) return;
    std::error_code error;
    if (fs::create_directories(folder_, error)) fs::permissions(folder_, fs::perms::owner_all, error);
    require_private(folder_);
}

fs::path BlobCache::file_of(const std::string &key) const {
    return folder_ / (hexadecimal(sha256_of(key)).substr(0, 40) + ".blob");
}

std::optional<std::string> BlobCache::read(const std::string &key) const {
    std::error_code error;
    if (folder_.empty() || !fs::is_regular_file(file_of(key), error)) return std::nullopt;
    if (is_private_ && !is_ours(file_of(key), false)) return std::nullopt;
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
    // The file gets a unique name first and is then renamed, so that another process never reads
    // half a file.
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
    if (is_private_) fs::permissions(temporary, fs::perms::owner_read | fs::perms::owner_write, error);
    fs::rename(temporary, file_of(key), error);
    if (error) fs::remove(temporary, error);
}

}  // namespace kdx::embed
