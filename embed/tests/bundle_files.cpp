// bundle_files: what the library reads of a bundle, and which changes to its files it refuses. No
// graph is run.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "check.h"
#include "files.h"
#include "golden.h"
#include "internals.h"
#include "open_bundle.h"
#include "sha256.h"
#include "support.h"
#include "test_bundle.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

void altered_files_are_refused(const fs::path &path) {
    const auto message_after = [&](auto &&change) {
        const BundleCopy copy(path);
        change(copy);
        std::string message;
        CHECK(status_of([&] { ke::open_bundle(copy).check_files(); }, &message) == KDX_ERROR_BUNDLE);
        return message;
    };
    CHECK(contains(message_after([](auto &copy) { append_space(copy / "model.onnx"); }), "was altered"));
    CHECK(contains(message_after([](auto &copy) { append_space(copy / "golden/anomaly_map.npy"); }), "was altered"));
    CHECK(contains(message_after([](auto &copy) { fs::remove(copy / "model.onnx"); }), "'model.onnx' is missing"));
    CHECK(contains(message_after([](auto &copy) { fs::remove(copy / "bundle.json"); }), "is missing"));
    for (const auto *target : {"model.onnx", "nowhere"})
        CHECK(contains(message_after([&](auto &copy) {
                           fs::remove(copy / "model.onnx");
                           fs::create_symlink(target, copy / "model.onnx");
                       }),
                       "is a link that leads to no file"));
    CHECK(contains(message_after([](auto &copy) {
                       fs::remove(copy / "model.onnx");
                       fs::create_symlink("/etc/passwd", copy / "model.onnx");
                   }),
                   "outside the bundle"));
    // In the cache of a model hub, files are links to their content.
    const BundleCopy copy(path);
    fs::remove(copy / "model.onnx");
    fs::create_symlink(fs::canonical(path / "model.onnx"), copy / "model.onnx");
    CHECK(status_of([&] { ke::open_bundle(copy).check_files(); }) == KDX_OK);
    std::string message;
    CHECK(status_of([&] { ke::open_bundle("/no/such/bundle"); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "there is no bundle"));
    // The system's reason is given: for root, no permission is missing.
    const std::string too_long(300, 'x');
    CHECK(status_of([&] { ke::open_bundle(too_long); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "' cannot be read: File name too long"));
    CHECK(status_of([&] { ke::read_file(path); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "' cannot be read: Is a directory"));
    CHECK(status_of([&] { ke::sha256_of_file(path / "nothing"); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "' cannot be read: No such file or directory"));
    CHECK(status_of([&] { ke::sha256_of_file(path); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "' cannot be read: Is a directory"));
    auto bundle = ke::open_bundle(path);
    bundle.files[too_long] = std::string(64, '0');
    CHECK(status_of([&] { bundle.read(too_long); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "' cannot be read: File name too long"));
    CHECK(status_of([&] { ke::open_bundle(copy / "bundle.json"); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "is a file, and a bundle is a folder"));
    fs::rename(copy / "bundle.json", copy / "run.json");
    CHECK(status_of([&] { ke::open_bundle(copy); }, &message) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "is not a bundle but a run folder") && contains(message, "kdx export "));
}

// A program was killed while it replaced the bundle: the old folder waits beside it.
void an_interrupted_replacement_is_named() {
    const TemporaryFolder root;
    std::string message;
    const auto message_of = [&](const fs::path &path) {
        CHECK(status_of([&] { ke::open_bundle(path); }, &message) == KDX_ERROR_BUNDLE);
        return message;
    };
    for (const auto *other :
         {".tile.kdx.a_b2.old/tile.kdx", ".tile.kdx.abcd_123.part/tile.kdx", ".a.kdx.abcd_123.old/a.kdx"})
        fs::create_directories(root / other);
    CHECK(contains(message_of(root / "tile.kdx"), "there is no bundle"));
    fs::create_directories(root / ".tile.kdx.abcd_123.old/tile.kdx");
    for (const auto *name : {"tile.kdx", "tile.kdx/"})
        CHECK(contains(message_of(root / name), "was interrupted") && contains(message, "kdx inspect "));
}

void files_are_hashed_each_time_they_are_read(const fs::path &path) {
    const auto is_refused = [&](const std::string &name, auto &&read) {
        const BundleCopy copy(path);
        const auto bundle = ke::open_bundle(copy);
        CHECK(bundle.check_files("model.onnx") == ke::read_file(path / "model.onnx"));
        append_space(copy / name);
        std::string message;
        CHECK(status_of([&] { read(bundle); }, &message) == KDX_ERROR_BUNDLE);
        return contains(message, "'" + name + "' in ") && contains(message, "was altered");
    };
    CHECK(is_refused("model.onnx", [](const ke::Bundle &bundle) { bundle.read("model.onnx"); }));
    const auto golden = ke::open_bundle(path).golden.front();
    for (const auto &name : {std::string("anomaly_map.npy"), std::string("anomaly_score.npy"), golden})
        CHECK(is_refused("golden/" + name, [](const ke::Bundle &bundle) { ke::read_golden(bundle); }));
}

void golden_images_are_read(const fs::path &path) {
    const auto bundle = ke::open_bundle(path);
    const auto golden = ke::read_golden(bundle);
    CHECK(golden.count == bundle.golden.size());
    CHECK(golden.images.size() == golden.count * bundle.height * bundle.width * bundle.channels);
    const auto file = ke::read_file(path / "golden" / bundle.golden.front());
    std::vector<std::uint8_t> pixels;
    const auto decode = [&](const std::string &content, int height) {
        return status_of([&] { ke::decode_png(content, height, bundle.width, bundle.channels, pixels); });
    };
    CHECK(decode(file, bundle.height + 1) == KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length < file.size() - 12; length += 211)
        CHECK(decode(file.substr(0, length), bundle.height) == KDX_ERROR_BUNDLE);
    const auto scores = ke::read_file(path / "golden/anomaly_score.npy");
    CHECK(status_of([&] { ke::decode_npy(scores, {golden.count + 1, 1}); }) == KDX_ERROR_BUNDLE);
    CHECK(status_of([&] { ke::decode_npy(replaced(scores, "<f4", "<f8"), {golden.count, 1}); }) == KDX_ERROR_BUNDLE);
}

}  // namespace

int bundle_files() {
    const fs::path bundle = test_bundle();
    altered_files_are_refused(bundle);
    an_interrupted_replacement_is_named();
    files_are_hashed_each_time_they_are_read(bundle);
    golden_images_are_read(bundle);
    return status();
}
