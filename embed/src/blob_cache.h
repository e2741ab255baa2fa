// Compiled models on disk: only whole ones, and only for their own key. See kdx/runtime/openvino/blob_cache.py for why OpenVINO's
// own cache is not used.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace kdx::embed {

class BlobCache {
public:
    // An empty folder keeps nothing. Whatever goes wrong with the folder costs time, never an answer. A blob carries its own
    // hash alone: whoever writes one chooses what runs. So where is_private, throws Failure (KDX_ERROR_ARGUMENT) unless
    // nobody but this user and root can write to the folder, and reads no blob that another could have written.
    explicit BlobCache(std::filesystem::path folder, bool is_private = false);

    std::optional<std::string> read(const std::string &key) const;
    void write(const std::string &key, const std::string &blob) const;
    bool is_kept() const { return !folder_.empty(); }

private:
    std::filesystem::path file_of(const std::string &key) const;

    std::filesystem::path folder_;
    bool is_private_;
};

}  // namespace kdx::embed
