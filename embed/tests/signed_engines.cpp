// signed_engines: what the library does with the engine "fp16" of a bundle that was signed
// together with it. The key is in KDX_TEST_KEY.
#include <filesystem>
#include <string>
#include <vector>

#include "check.h"
#include "engine_record.h"
#include "internals.h"
#include "keys.h"
#include "open_bundle.h"
#include "support.h"
#include "test_bundle.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

// Changes the engines of a copy of the bundle, looks for one of another machine, and returns the
// message.
template <class Action>
std::string message_after(const fs::path &path, const std::vector<ke::PublicKey> *keys, kdx_status expected,
                          Action &&change) {
    const BundleCopy copy(path);
    change(copy / "engines");
    const auto bundle = ke::open_bundle(copy, keys);
    const ke::Machine machine{"0.0.0", "0.0", "no card", "no system"};
    std::string message;
    CHECK(status_of([&] { ke::find_engine(bundle, ke::Precision::fp32, machine); }, &message) == expected);
    return message;
}

void engines_that_are_not_signed_are_not_opened(const fs::path &path, const char *key) {
    const auto keys = ke::read_public_keys(&key, 1);
    const auto remove_plan = [](const fs::path &engines) { fs::remove(engines / "fp16/model.plan"); };
    // A signed record is read, and found to be of another machine; so is any record if no signature
    // is required.
    const auto nothing = [](const fs::path &) {};
    CHECK(contains(message_after(path, &keys, KDX_ERROR_BACKEND, nothing), "engines/fp16: "));
    CHECK(contains(message_after(path, nullptr, KDX_ERROR_BACKEND, remove_plan), "engines/fp16: "));

    const auto is_refused = [&](const std::string &file, auto &&change) {
        const auto message = message_after(path, &keys, KDX_ERROR_BUNDLE, change);
        return message.find("'engines/" + file + "' in ") == 0 && contains(message, "is not what was signed");
    };
    CHECK(is_refused("fp16/model.plan", remove_plan));
    for (const auto *file : {"fp16/model.plan", "fp16/engine.json"})
        CHECK(is_refused(file, [&](const fs::path &engines) { append_space(engines / file); }));
    CHECK(is_refused("later/engine.json",
                     [](const fs::path &engines) { fs::copy(engines / "fp16", engines / "later"); }));
}

// What the self-test checks of a bundle whose signature was required.
void a_signature_is_verified_again(const fs::path &path, const char *key) {
    const auto keys = ke::read_public_keys(&key, 1);
    const auto message_after = [&](auto &&change) {
        const BundleCopy copy(path);
        const auto bundle = ke::open_bundle(copy, &keys);
        CHECK(status_of([&] { ke::require_same_index(bundle); }) == KDX_OK);
        change(copy);
        std::string message;
        CHECK(status_of([&] { ke::require_same_index(bundle); }, &message) == KDX_ERROR_BUNDLE);
        return message;
    };
    CHECK(contains(message_after([](const auto &copy) { fs::remove(copy / "bundle.sig"); }), "is not signed"));
    CHECK(contains(message_after([](const auto &copy) { append_space(copy / "bundle.json"); }), "was changed since"));
}

}  // namespace

int signed_engines() {
    engines_that_are_not_signed_are_not_opened(test_bundle(), test_key());
    a_signature_is_verified_again(test_bundle(), test_key());
    return status();
}
