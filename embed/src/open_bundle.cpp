#include "open_bundle.h"

#include <string>

#include "error.h"
#include "files.h"
#include "manifest.h"

namespace kdx::embed {

namespace fs = std::filesystem;

namespace {

constexpr const char *kRun = "run.json";  // of a training

}  // namespace

Bundle open_bundle(const fs::path &path, const std::vector<PublicKey> *keys) {
    std::error_code error;
    if (fs::is_regular_file(path, error))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is a file, and a bundle is a folder",
                      {"", "", "name the folder that kdx export wrote, NAME.kdx"});
    if (!fs::is_directory(path, error))
        throw Failure(KDX_ERROR_BUNDLE, "there is no bundle '" + path.string() + "'",
                      {"", "", "make one with kdx export"});
    if (!fs::is_regular_file(path / kIndex, error) && fs::is_regular_file(path / kRun, error))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is not a bundle but a run folder",
                      {"", "", "make a bundle of it: kdx export " + path.string() + " -o NAME.kdx"});
    if (!fs::is_regular_file(path / kIndex, error))
        throw Failure(KDX_ERROR_BUNDLE, "'" + path.string() + "' is not a bundle: " + kIndex + " is missing",
                      {"", "", "export it again with kdx export"});
    const auto index = read_file(path / kIndex);
    std::optional<Seal> seal;
    if (keys)
        seal = verify_signature(path, index, *keys);
    else
        require_signed_index(path, index);
    auto bundle = parse_manifest(index, path);
    bundle.seal = std::move(seal);
    return bundle;
}

}  // namespace kdx::embed
