// Fuzzes the check of bundle.sig and the reader of public keys. The seed is signed with the key in
// KDX_TEST_KEY, but the index is one that was never signed: no signature may be accepted.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "signature.h"
#include "test_bundle.h"

namespace ke = kdx::embed;

namespace {

std::vector<ke::PublicKey> keys;

template <class Action>
void expect_failure(kdx_status status, Action &&action) {
    try {
        action();
    } catch (const ke::Failure &failure) {
        if (failure.status != status) __builtin_trap();
        return;
    }
    // A public key may be valid after all.
    if (status == KDX_ERROR_BUNDLE) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    const char *key = test_key();
    keys = ke::read_public_keys(&key, 1);
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const std::string file(reinterpret_cast<const char *>(data), size);
    expect_failure(KDX_ERROR_BUNDLE, [&] { ke::verify_signature("tile.kdx", file, "no index", keys); });
    const auto key = file.find("-----BEGIN ") == std::string::npos ? "-----BEGIN PUBLIC KEY-----\n" + file : file;
    const char *text = key.c_str();
    expect_failure(KDX_ERROR_ARGUMENT, [&] { ke::read_public_keys(&text, 1); });
    return 0;
}
