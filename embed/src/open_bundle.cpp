#include "open_bundle.h"

#include <optional>
#include <string>
#include <utility>

#include "error.h"
#include "files.h"
#include "manifest.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;

namespace {

constexpr const char *kRun = "run.json";  // of a training

// Whether a program was killed while it replaced the folder: the old one then waits beside it, in
// .NAME.XXXXXXXX.old, see kdx/storage/files.py.
bool is_half_replaced(const fs::path &path) {
    const auto folder = path.has_filename() ? path : path.parent_path();
    const auto name = folder.filename().string(), begin = '.' + name + '.';
    const std::string end = ".old";
    std::error_code error;
    const auto parent = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
    for (const auto &entry : fs::directory_iterator(parent, error)) {
        const auto other = entry.path().filename().string();
        if (other.size() == begin.size() + 8 + end.size() && other.compare(0, begin.size(), begin) == 0 &&
            other.compare(other.size() - end.size(), end.size(), end) == 0 &&
            fs::is_directory(entry.path() / name, error))
            return true;
    }
    return false;
}

void require_folder(const fs::path &path) {
    std::error_code error;
    const auto found = fs::status(path, error);
    if (!fs::status_known(found)) refuse_unreadable(path, error);
    if (fs::is_regular_file(found))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is a file, and a bundle is a folder",
                      {"", "", "name the folder that kdx export wrote, NAME.kdx"});
    if (fs::is_directory(found)) return;
    if (is_half_replaced(path))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is missing: its replacement was interrupted",
                      {"", "", "kdx inspect " + path.string() + " restores it"});
    throw Failure(KDX_ERROR_BUNDLE, "there is no bundle '" + path.string() + "'", {"", "", "make one with kdx export"});
}

std::string read_index(const fs::path &path) {
    require_folder(path);
    if (has_file(path / kIndex)) return read_file(path / kIndex);
    if (has_file(path / kRun))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is not a bundle but a run folder",
                      {"", "", "make a bundle of it: kdx export " + path.string() + " -o NAME.kdx"});
    throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is not a bundle: " + kIndex + " is missing",
                  {"", "", "export it again with kdx export"});
}

// Checks the signature of an index. Without keys, one that the bundle carries must at least be its.
std::optional<Seal> checked_seal(const fs::path &path, const std::string &index, const std::vector<PublicKey> *keys) {
    if (keys) return verify_signature(path, index, *keys);
    require_signed_index(path, index);
    return std::nullopt;
}

}  // namespace

Bundle open_bundle(const fs::path &path, const std::vector<PublicKey> *keys) {
    const auto index = read_index(path);
    auto seal = checked_seal(path, index, keys);
    auto bundle = parse_manifest(index, path);
    bundle.seal = std::move(seal);
    bundle.index_sha256 = hexadecimal(sha256_of(index));
    if (keys) bundle.keys = *keys;
    return bundle;
}

void require_same_index(const Bundle &bundle) {
    const auto index = read_index(bundle.path);
    const auto received = hexadecimal(sha256_of(index));
    if (received != bundle.index_sha256)
        throw Failure(KDX_ERROR_BUNDLE,
                      kIndex + (" of '" + bundle.path.string()) + "' was changed since the bundle was opened",
                      {"sha256 " + bundle.index_sha256, "sha256 " + received, "open it again"});
    checked_seal(bundle.path, index, bundle.seal ? &bundle.keys : nullptr);
}

}  // namespace kdx::embed
