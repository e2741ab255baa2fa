// Helpers for tests of the library's internal functions.
#pragma once

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "check.h"
#include "error.h"

// Returns the status with which an action fails, or KDX_OK; writes its message into `message`.
template <class Action>
kdx_status status_of(Action &&action, std::string *message = nullptr) {
    try {
        action();
        return KDX_OK;
    } catch (const kdx::embed::Failure &failure) {
        if (message) *message = failure.what();
        return failure.status;
    }
}

inline bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

// Returns a text in which one part, which must occur, is replaced.
inline std::string replaced(std::string text, const std::string &from, const std::string &to) {
    const auto at = text.find(from);
    CHECK(at != std::string::npos);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

inline void append_space(const std::filesystem::path &file) { std::ofstream(file, std::ios::app) << ' '; }

// A new folder that is removed at the end.
class TemporaryFolder {
public:
    TemporaryFolder()
        : path_(std::filesystem::temp_directory_path() / ("kdx-test-" + std::to_string(std::random_device{}()))) {
        std::filesystem::create_directories(path_);
    }
    ~TemporaryFolder() {
        std::error_code error;
        std::filesystem::remove_all(path_, error);
    }
    TemporaryFolder(const TemporaryFolder &) = delete;
    TemporaryFolder &operator=(const TemporaryFolder &) = delete;
    operator const std::filesystem::path &() const { return path_; }
    std::filesystem::path operator/(const std::filesystem::path &name) const { return path_ / name; }

private:
    const std::filesystem::path path_;
};

// A copy of a bundle that a test may change; it is removed at the end.
class BundleCopy : public TemporaryFolder {
public:
    explicit BundleCopy(const std::filesystem::path &bundle) {
        std::filesystem::copy(bundle, *this, std::filesystem::copy_options::recursive);
    }
};
