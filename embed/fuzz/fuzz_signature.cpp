// bundle.sig as anybody may have written it, and a public key: refused with a status. KDX_FUZZ_KEY names the key by which the
// seeds are signed. The index is none that was ever signed: nothing may pass.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "error.h"
#include "signing.h"

namespace ke = kdx::embed;

namespace {

std::vector<ke::PublicKey> read_once() {
    const char *key = std::getenv("KDX_FUZZ_KEY");
    if (!key) std::abort();
    return ke::read_public_keys(&key, 1);
}

template <class Action>
void refused(kdx_status status, Action &&action) {
    try {
        action();
    } catch (const ke::Failure &failure) {
        if (failure.status != status) __builtin_trap();
        return;
    }
    if (status == KDX_ERROR_BUNDLE) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const auto keys = read_once();
    const std::string file(reinterpret_cast<const char *>(data), size);
    refused(KDX_ERROR_BUNDLE, [&] { ke::verify_signature("tile.kdx", file, "no index", keys); });
    // A key may be readable after all.
    const auto key = file.find("-----BEGIN ") == std::string::npos ? "-----BEGIN PUBLIC KEY-----\n" + file : file;
    const char *text = key.c_str();
    refused(KDX_ERROR_ARGUMENT, [&] { ke::read_public_keys(&text, 1); });
    return 0;
}
