// Signatures: that a bundle comes from whoever holds a key, and is what it was then. See kdx/bundle/signing.py.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "keys.h"

namespace kdx::embed {

constexpr const char *kSignature = "bundle.sig";

// What a signature that was verified says.
struct Seal {
    std::string index_sha256;                    // of bundle.json
    std::map<std::string, std::string> engines;  // SHA-256 of each engine's record and plan, by relative POSIX path
};

// Checks that a bundle is signed by one of some keys; index is the content of its bundle.json. Throws Failure
// (KDX_ERROR_BUNDLE) where it is not signed, is signed by another key, or was altered since.
Seal verify_signature(const std::filesystem::path &bundle, std::string_view index, const std::vector<PublicKey> &keys);

// The same of the content of bundle.sig: no file is touched. What the fuzzer calls.
Seal verify_signature(const std::filesystem::path &bundle, const std::string &file, std::string_view index,
                      const std::vector<PublicKey> &keys);

}  // namespace kdx::embed
