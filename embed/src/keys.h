// Public keys for signatures: Ed25519 in PEM. See kdx/bundle/keys.py.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kdx::embed {

struct PublicKey {
    std::string fingerprint;  // hexadecimal SHA-256 of its DER form (SubjectPublicKeyInfo)
    std::string bytes;        // the 32 of RFC 8032
};

// Reads keys: each is a PEM file's path, or the text of one. Throws Failure (KDX_ERROR_ARGUMENT) where there are none, where
// one cannot be read or is of another kind, and where the library was built without OpenSSL.
std::vector<PublicKey> read_public_keys(const char *const *keys, std::size_t count);

// Whether a key made a signature of a text. False as well for a signature of another length.
bool is_signature_of(const PublicKey &key, std::string_view signature, std::string_view text);

}  // namespace kdx::embed
