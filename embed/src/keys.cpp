#include "keys.h"

#include "error.h"
#include "files.h"
#include "sha256.h"

#if defined(KDX_WITH_OPENSSL)
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <filesystem>
#include <memory>
#include <new>
#endif

namespace kdx::embed {

#if !defined(KDX_WITH_OPENSSL)

std::vector<PublicKey> read_public_keys(const char *const *, std::size_t) {
    throw Failure(KDX_ERROR_ARGUMENT,
                  "a signature is required, but this library was built without OpenSSL and cannot check it",
                  {"", "", "build it with the headers of OpenSSL (libssl-dev) and -DKDX_WITH_OPENSSL=ON"});
}

bool is_signature_of(const PublicKey &, std::string_view, std::string_view) { return false; }

#else

namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kLargestFile = 1 << 20;  // a PEM file has a few hundred bytes

template <auto release>
struct Free {
    template <class T>
    void operator()(T *object) const {
        release(object);
    }
};
using Source = std::unique_ptr<BIO, Free<BIO_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Digest = std::unique_ptr<EVP_MD_CTX, Free<EVP_MD_CTX_free>>;

// Keeps the errors of this library out of OpenSSL's error queue, which other code in this thread
// may use.
class ErrorQueueGuard {
public:
    ErrorQueueGuard() { ERR_set_mark(); }
    ~ErrorQueueGuard() { ERR_pop_to_mark(); }
    ErrorQueueGuard(const ErrorQueueGuard &) = delete;
    ErrorQueueGuard &operator=(const ErrorQueueGuard &) = delete;
};

// Without this function OpenSSL would ask for a passphrase on the terminal.
int no_passphrase(char *, int, int, void *) { return -1; }

[[noreturn]] void refuse_key(const std::string &what, const std::string &received = "") {
    throw Failure(KDX_ERROR_ARGUMENT, what,
                  {"the NAME.pub that kdx sign --new-key NAME has made: Ed25519 in PEM", received, ""});
}

std::string der_of(EVP_PKEY *key) {
    unsigned char *bytes = nullptr;
    const int length = i2d_PUBKEY(key, &bytes);
    if (length <= 0) throw std::bad_alloc();
    const std::string der(reinterpret_cast<const char *>(bytes), static_cast<std::size_t>(length));
    OPENSSL_free(bytes);
    return der;
}

PublicKey key_from(const std::string &pem, const std::string &name) {
    if (pem.find("PRIVATE KEY") != std::string::npos)
        refuse_key(name + " is a private key; the line needs the public key");
    if (pem.size() > kLargestFile) refuse_key(name + " is not a public key");
    const Source source(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    if (!source) throw std::bad_alloc();
    const Key key(PEM_read_bio_PUBKEY(source.get(), nullptr, no_passphrase, nullptr));
    if (!key) refuse_key(name + " is not a public key");
    if (EVP_PKEY_id(key.get()) != EVP_PKEY_ED25519) {
        const auto *kind = OBJ_nid2ln(EVP_PKEY_base_id(key.get()));
        refuse_key(name + " is a key of another kind", kind ? kind : "an unknown kind");
    }
    std::string bytes(kKeyBytes, '\0');
    auto length = bytes.size();
    if (EVP_PKEY_get_raw_public_key(key.get(), reinterpret_cast<unsigned char *>(bytes.data()), &length) != 1 ||
        length != kKeyBytes)
        refuse_key(name + " is not a public key");
    return {hexadecimal(sha256_of(der_of(key.get()))), bytes};
}

PublicKey read_public_key(const char *given) {
    const std::string key = given;
    if (key.find("-----BEGIN ") != std::string::npos) return key_from(key, "the key");
    const auto path = std::filesystem::u8path(key);
    try {
        if (!has_file(path))
            throw Failure(KDX_ERROR_ARGUMENT, "there is no key '" + key + "'",
                          {"", "", "name the file; kdx sign --new-key NAME makes NAME.key and NAME.pub"});
        return key_from(read_file(path), "'" + key + "'");
    } catch (const Failure &failure) {
        // The key is an argument, not a file of the bundle.
        throw Failure(KDX_ERROR_ARGUMENT, failure.message, failure.details);
    }
}

}  // namespace

std::vector<PublicKey> read_public_keys(const char *const *keys, std::size_t count) {
    if (!count)
        throw Failure(KDX_ERROR_ARGUMENT, "a signature is required, but no key is given",
                      {"", "", "name the public key of the signer"});
    const ErrorQueueGuard guard;
    std::vector<PublicKey> read;
    for (std::size_t i = 0; i < count; ++i) {
        if (!keys || !keys[i]) throw Failure(KDX_ERROR_ARGUMENT, "a public key is null");
        read.push_back(read_public_key(keys[i]));
    }
    return read;
}

bool is_signature_of(const PublicKey &key, std::string_view signature, std::string_view text) {
    const ErrorQueueGuard guard;
    const auto *bytes = reinterpret_cast<const unsigned char *>(key.bytes.data());
    const Key verifier(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes, key.bytes.size()));
    const Digest digest(EVP_MD_CTX_new());
    if (!verifier || !digest) throw std::bad_alloc();
    if (EVP_DigestVerifyInit(digest.get(), nullptr, nullptr, nullptr, verifier.get()) != 1) return false;
    return EVP_DigestVerify(digest.get(), reinterpret_cast<const unsigned char *>(signature.data()), signature.size(),
                            reinterpret_cast<const unsigned char *>(text.data()), text.size()) == 1;
}

#endif

}  // namespace kdx::embed
