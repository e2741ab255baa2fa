#include "blob_cache.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <random>
#include <tuple>
#include <vector>
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
// As in kdx/runtime/openvino/blob_cache.py.
constexpr std::uintmax_t kMostBytes = std::uintmax_t{1} << 30;
constexpr const char *kSuffix = ".blob", *kUnfinished = ".new-";
// No writer takes this long: what is older was left by one that was killed.
constexpr auto kAbandoned = std::chrono::hours(1);

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
    if (folder_.empty()) return;
    std::error_code error;
    if (fs::create_directories(folder_, error) && is_private_)
        fs::permissions(folder_, fs::perms::owner_all, error);
    if (is_private_) require_private(folder_);
    // A file shows more than permissions: the file system may be read-only or full.
    const auto tried = new_file();
    errno = 0;
    if (!error && !(std::ofstream(tried) << ' ').flush()) error = last_error_code();
    if (error) fault_ = error.message();
    fs::remove(tried, error);
}

std::string BlobCache::remark() const {
    if (fault_.empty()) return {};
    return "the cache '" + folder_.string() + "' cannot be written: " + fault_ +
           ". Models that are not in it are compiled at every start";
}

fs::path BlobCache::file_of(const std::string &key) const {
    return folder_ / (hexadecimal(sha256_of(key)).substr(0, 40) + kSuffix);
}

fs::path BlobCache::new_file() const {
    const auto now = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    return folder_ / (kUnfinished + std::to_string(now) + "-" + std::to_string(std::random_device{}()));
}

void BlobCache::make_room(const fs::path &newest) const try {
    const auto now = fs::file_time_type::clock::now();
    std::vector<std::tuple<fs::file_time_type, std::uintmax_t, fs::path>> models;
    std::error_code error;  // another process may have removed the file
    for (const auto &entry : fs::directory_iterator(folder_)) {
        const auto used = entry.last_write_time(error);
        const auto size = error ? 0 : entry.file_size(error);
        if (error) continue;
        if (entry.path().extension() == kSuffix)
            models.emplace_back(used, size, entry.path());
        else if (entry.path().filename().string().rfind(kUnfinished, 0) == 0 && now - used > kAbandoned)
            fs::remove(entry.path(), error);
    }
    std::sort(models.rbegin(), models.rend());  // the last used first
    std::uintmax_t total = 0;
    for (const auto &[used, size, file] : models)
        if ((total += size) > kMostBytes && file != newest) fs::remove(file, error);
} catch (const fs::filesystem_error &) {  // the folder was removed
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
        fs::last_write_time(file_of(key), fs::file_time_type::clock::now(), error);  // it was used
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
    const auto temporary = new_file();
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
    make_room(file_of(key));
}

}  // namespace kdx::embed
