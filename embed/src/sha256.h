// SHA-256 (FIPS 180-4), with which a bundle identifies the content of its files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace kdx::embed {

class Sha256 {
public:
    void update(const void *data, std::size_t size);
    // Returns the digest. No update may follow.
    std::array<std::uint8_t, 32> digest();

private:
    void block(const std::uint8_t *data);

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<std::uint8_t, 64> pending_{};
    std::size_t filled_ = 0;
    std::uint64_t total_ = 0;
};

std::array<std::uint8_t, 32> sha256_of(std::string_view data);
std::string hexadecimal(const std::array<std::uint8_t, 32> &digest);

// Throws Failure (KDX_ERROR_BUNDLE) if the file cannot be read.
std::string sha256_of_file(const std::filesystem::path &file);

}  // namespace kdx::embed
