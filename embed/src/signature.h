// Signatures. They prove that a bundle comes from the holder of a key and was not altered since.
// The counterpart of kdx/bundle/signature.py.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "keys.h"

namespace kdx::embed {

constexpr const char *kSignature = "bundle.sig";
// Advice in messages.
constexpr const char *kSignAgain = "sign it again where the key is kept (kdx sign)";

// What a verified signature states.
struct Seal {
    std::string index_sha256;                    // of bundle.json
    std::map<std::string, std::string> engines;  // SHA-256 of records and plans, by relative path
};

// Checks that one of the given keys signed a bundle. index: the content of its bundle.json. Throws
// Failure (KDX_ERROR_BUNDLE) if the bundle is not signed, was signed by another key, or was altered
// after it was signed.
Seal verify_signature(const std::filesystem::path &bundle, std::string_view index, const std::vector<PublicKey> &keys);

// The same check with the content of bundle.sig in `file`. It opens no file, so a fuzzer can call
// it.
Seal verify_signature(const std::filesystem::path &bundle, const std::string &file, std::string_view index,
                      const std::vector<PublicKey> &keys);

// Checks, where no signature is required, that a signature which the bundle carries is at least of
// this bundle.json; no key verifies it. Throws Failure (KDX_ERROR_BUNDLE).
void require_signed_index(const std::filesystem::path &bundle, std::string_view index);

}  // namespace kdx::embed
