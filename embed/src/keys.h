// Public keys for signatures: Ed25519 in PEM. The counterpart of kdx/bundle/keys.py.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kdx::embed {

struct PublicKey {
    std::string fingerprint;  // hexadecimal SHA-256 of the DER form (SubjectPublicKeyInfo)
    std::string bytes;        // the 32 bytes of RFC 8032
};

// Reads keys, each of which is the path of a PEM file or its content. Throws Failure
// (KDX_ERROR_ARGUMENT) if there are none, if one cannot be read or is of another kind, and if the
// library was built without OpenSSL.
std::vector<PublicKey> read_public_keys(const char *const *keys, std::size_t count);

// Whether a signature of a text was made with a key. A signature of another length was not.
bool is_signature_of(const PublicKey &key, std::string_view signature, std::string_view text);

}  // namespace kdx::embed
