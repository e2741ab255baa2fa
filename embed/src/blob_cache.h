// A cache of compiled models on disk. It returns only complete models, and only for their own key.
// The counterpart of kdx/runtime/openvino/blob_cache.py, which explains why OpenVINO's own cache is
// not used.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace kdx::embed {

class BlobCache {
public:
    // folder: empty for no cache. Problems with the folder cost time but never change an answer;
    // remark() tells of one that cannot be written. Of the models in it, those that were used least
    // recently are removed beyond 1 GiB.
    // is_private: throws Failure (KDX_ERROR_ARGUMENT) unless only this user and root can write to
    // the folder, and reads no blob that another user could have written. A blob is protected only
    // by its own hash, so whoever can write one chooses what runs.
    explicit BlobCache(std::filesystem::path folder, bool is_private = false);

    std::optional<std::string> read(const std::string &key) const;
    void write(const std::string &key, const std::string &blob) const;
    bool is_kept() const { return !folder_.empty(); }
    // Says why compiled models cannot be kept although a folder is named; empty if they can.
    std::string remark() const;

private:
    std::filesystem::path file_of(const std::string &key) const;
    std::filesystem::path new_file() const;
    void make_room(const std::filesystem::path &newest) const;

    std::filesystem::path folder_;
    bool is_private_;
    std::string fault_;  // why the folder cannot be written
};

}  // namespace kdx::embed
