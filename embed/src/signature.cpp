#include "signature.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "error.h"
#include "files.h"
#include "json_reading.h"
#include "sha256.h"

namespace kdx::embed {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::int64_t kSignatureSchema = 1;
constexpr const char *kAlgorithm = "ed25519";
constexpr std::size_t kSignatureBytes = 64;

[[noreturn]] void refuse_signature(const std::string &why, const Details &details) {
    throw Failure(KDX_ERROR_BUNDLE, why, details);
}

[[noreturn]] void refuse_invalid(const fs::path &bundle, const std::string &why) {
    refuse_signature("'" + (bundle / kSignature).string() + "' is not valid: " + why, {"", "", kSignAgain});
}

std::string list(const std::vector<PublicKey> &keys) {
    std::string listed;
    for (const auto &key : keys)
        listed += (listed.empty() ? "" : " or ") + std::string(kAlgorithm) + ' ' + key.fingerprint;
    return listed;
}

// The content of bundle.sig.
struct File {
    std::int64_t schema;
    std::string algorithm, key_sha256, statement, signature;
};

File parse_file(const fs::path &bundle, const std::string &text) {
    try {
        const auto record = parse_json(text);
        const auto &schema = record.at("schema");
        if (!schema.is_number_integer() || schema < 1) refuse_invalid(bundle, "there is no schema " + schema.dump());
        // Checked first, because a newer schema may have changed everything else.
        if (schema.get<std::int64_t>() > kSignatureSchema)
            refuse_signature("'" + bundle.string() + "' was written by a newer kdx",
                             {"schema " + std::to_string(kSignatureSchema) + " or older", "schema " + schema.dump(),
                              "update kdx on this machine"});
        const auto text_of = [&](const char *name) { return record.at(name).get<std::string>(); };
        return {schema.get<std::int64_t>(), text_of("algorithm"), text_of("key_sha256"), text_of("statement"),
                text_of("signature")};
    } catch (const json::exception &error) {
        refuse_invalid(bundle, error.what());
    } catch (const Invalid &invalid) {
        refuse_invalid(bundle, invalid.why);
    }
}

// Returns the 64 bytes of a signature; nothing if the text is not base64 (RFC 4648) of 64 bytes.
std::optional<std::string> decoded(const std::string &text) {
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    constexpr std::size_t digits = 86;  // followed by two of padding
    if (text.size() != digits + 2 || text.compare(digits, 2, "==")) return std::nullopt;
    std::string bytes;
    std::uint32_t held = 0;
    int bits = 0;
    for (std::size_t i = 0; i < digits; ++i) {
        const auto value = alphabet.find(text[i]);
        if (value == std::string_view::npos) return std::nullopt;
        held = held << 6 | static_cast<std::uint32_t>(value);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        bytes += static_cast<char>(held >> bits & 0xff);
    }
    return bytes.size() == kSignatureBytes ? std::optional(bytes) : std::nullopt;
}

Seal parse_statement(const fs::path &bundle, const std::string &text) {
    try {
        const auto statement = parse_json(text);
        return {statement.at("index_sha256").get<std::string>(),
                statement.at("engines").get<std::map<std::string, std::string>>()};
    } catch (const json::exception &error) {
        refuse_invalid(bundle, error.what());
    } catch (const Invalid &invalid) {
        refuse_invalid(bundle, invalid.why);
    }
}

void require_its_index(const fs::path &bundle, std::string_view index, const Seal &seal) {
    const auto received = hexadecimal(sha256_of(index));
    if (received == seal.index_sha256) return;
    refuse_signature("bundle.json of '" + bundle.string() + "' was altered after it was signed",
                     {"sha256 " + seal.index_sha256, "sha256 " + received,
                      std::string("if you changed it on purpose, ") + kSignAgain +
                          "; if not, do not use this bundle: copy it again from where it was signed"});
}

}  // namespace

Seal verify_signature(const fs::path &bundle, const std::string &text, std::string_view index,
                      const std::vector<PublicKey> &keys) {
    const auto name = "'" + bundle.string() + "'";
    const auto file = parse_file(bundle, text);
    const auto key = std::find_if(keys.begin(), keys.end(),
                                  [&](const PublicKey &each) { return each.fingerprint == file.key_sha256; });
    if (file.algorithm != kAlgorithm || key == keys.end())
        refuse_signature(name + " is signed by another key",
                         {list(keys), file.algorithm + ' ' + file.key_sha256,
                          "do not use this bundle unless you know that key; then name its public key"});
    // The signed text begins with its purpose, so that a signature for another purpose is not
    // accepted.
    const auto signed_text = "kdx bundle signature " + std::to_string(file.schema) + '\n' + file.statement;
    const auto signature = decoded(file.signature);
    if (!signature || !is_signature_of(*key, *signature, signed_text))
        refuse_signature(
            "the signature of " + name + " is wrong",
            {"one made by " + key->fingerprint, std::string("a ") + kSignature + " that was altered or forged",
             "do not use this bundle, or have it signed again"});
    auto seal = parse_statement(bundle, file.statement);
    require_its_index(bundle, index, seal);
    return seal;
}

Seal verify_signature(const fs::path &bundle, std::string_view index, const std::vector<PublicKey> &keys) {
    if (!has_file(bundle / kSignature))
        refuse_signature(
            "'" + bundle.string() + "' is not signed",
            {std::string(kSignature) + ", by " + list(keys), "no signature",
             "have it signed where the key is kept (kdx sign); calibrating a bundle removes its signature"});
    return verify_signature(bundle, read_file(bundle / kSignature), index, keys);
}

void require_signed_index(const fs::path &bundle, std::string_view index) {
    if (!has_file(bundle / kSignature)) return;
    const auto file = parse_file(bundle, read_file(bundle / kSignature));
    require_its_index(bundle, index, parse_statement(bundle, file.statement));
}

}  // namespace kdx::embed
