#include "inflate.h"

#include <array>
#include <string>

#include "error.h"

namespace kdx::embed {

namespace {

constexpr int kLongestCode = 15;

[[noreturn]] void refuse_stream(const char *what) {
    throw Failure(KDX_ERROR_BUNDLE, std::string("a golden image is damaged: ") + what,
                  {"", "", "export the bundle again"});
}

class Bits {
public:
    explicit Bits(std::string_view stream) : stream_(stream) {}

    unsigned take(int count) {
        while (held_ < count) {
            if (next_ == stream_.size()) refuse_stream("its data ends early");
            buffer_ |= std::uint32_t{static_cast<std::uint8_t>(stream_[next_++])} << held_;
            held_ += 8;
        }
        const auto value = buffer_ & ((1u << count) - 1);
        buffer_ >>= count, held_ -= count;
        return value;
    }

    void to_byte() { take(held_ % 8); }

private:
    std::string_view stream_;
    std::size_t next_ = 0;
    std::uint32_t buffer_ = 0;
    int held_ = 0;
};

// A canonical Huffman code: how many codes there are of each length, and their symbols in order.
class Code {
public:
    Code(const std::uint8_t *lengths, int count) : symbols_(count) {
        for (int i = 0; i < count; ++i) ++counts_[lengths[i]];
        counts_[0] = 0;
        int left = 1;
        for (int length = 1; length <= kLongestCode; ++length) {
            left = 2 * left - counts_[length];
            if (left < 0) refuse_stream("a code is over-subscribed");
        }
        std::array<int, kLongestCode + 1> offsets{};
        for (int length = 1; length < kLongestCode; ++length) offsets[length + 1] = offsets[length] + counts_[length];
        for (int i = 0; i < count; ++i)
            if (lengths[i]) symbols_[offsets[lengths[i]]++] = i;
    }

    int symbol(Bits &bits) const {
        int code = 0, first = 0, index = 0;
        for (int length = 1; length <= kLongestCode; ++length) {
            code |= static_cast<int>(bits.take(1));
            if (code - counts_[length] < first) return symbols_[index + code - first];
            index += counts_[length];
            first = (first + counts_[length]) << 1;
            code <<= 1;
        }
        refuse_stream("a code is unknown");
    }

private:
    std::array<int, kLongestCode + 1> counts_{};
    std::vector<int> symbols_;
};

class Inflater {
public:
    Inflater(std::string_view stream, std::size_t size) : bits_(stream), size_(size) { out_.reserve(size); }

    std::vector<std::uint8_t> run() {
        for (bool last = false; !last;) {
            last = bits_.take(1);
            switch (bits_.take(2)) {
                case 0: stored(); break;
                case 1: fixed(); break;
                case 2: dynamic(); break;
                default: refuse_stream("the type of a block is unknown");
            }
        }
        if (out_.size() != size_) refuse_stream("its size does not match the detector's input");
        bits_.to_byte();
        std::uint32_t expected = 0, a = 1, b = 0;
        for (int i = 0; i < 4; ++i) expected = expected << 8 | bits_.take(8);
        for (const auto byte : out_) a = (a + byte) % 65521, b = (b + a) % 65521;
        if (expected != (b << 16 | a)) refuse_stream("its checksum is wrong");
        return std::move(out_);
    }

private:
    void put(std::uint8_t byte) {
        if (out_.size() == size_) refuse_stream("it has more data than pixels");
        out_.push_back(byte);
    }

    void stored() {
        bits_.to_byte();
        const auto length = bits_.take(16), complement = bits_.take(16);
        if (length != (~complement & 0xffff)) refuse_stream("a block's length is wrong");
        for (unsigned i = 0; i < length; ++i) put(static_cast<std::uint8_t>(bits_.take(8)));
    }

    void fixed() {
        std::uint8_t lengths[288];
        for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        std::uint8_t distances[30];
        for (auto &length : distances) length = 5;
        block(Code(lengths, 288), Code(distances, 30));
    }

    void dynamic() {
        static constexpr std::uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
        const int literals = static_cast<int>(bits_.take(5)) + 257, distances = static_cast<int>(bits_.take(5)) + 1;
        const int codes = static_cast<int>(bits_.take(4)) + 4;
        if (literals > 286 || distances > 30) refuse_stream("a code has too many symbols");
        std::uint8_t lengths[286 + 30] = {};
        for (int i = 0; i < codes; ++i) lengths[order[i]] = static_cast<std::uint8_t>(bits_.take(3));
        const Code code(lengths, 19);
        std::fill(std::begin(lengths), std::end(lengths), std::uint8_t{0});
        for (int i = 0; i < literals + distances;) {
            const int symbol = code.symbol(bits_);
            if (symbol < 16) {
                lengths[i++] = static_cast<std::uint8_t>(symbol);
                continue;
            }
            if (symbol == 16 && i == 0) refuse_stream("a code repeats nothing");
            const std::uint8_t repeated = symbol == 16 ? lengths[i - 1] : 0;
            int times = static_cast<int>(symbol == 16   ? 3 + bits_.take(2)
                                         : symbol == 17 ? 3 + bits_.take(3)
                                                        : 11 + bits_.take(7));
            if (i + times > literals + distances) refuse_stream("a code has too many lengths");
            while (times--) lengths[i++] = repeated;
        }
        if (!lengths[256]) refuse_stream("a block has no end code");
        block(Code(lengths, literals), Code(lengths + literals, distances));
    }

    void block(const Code &literal, const Code &distance) {
        static constexpr std::uint16_t base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                                   31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
        static constexpr std::uint8_t extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                   2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
        static constexpr std::uint16_t far[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                                  33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                                  1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
        static constexpr std::uint8_t further[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                     6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
        for (;;) {
            const int symbol = literal.symbol(bits_);
            if (symbol == 256) return;
            if (symbol < 256) {
                put(static_cast<std::uint8_t>(symbol));
                continue;
            }
            if (symbol > 285) refuse_stream("a length is unknown");
            unsigned length = base[symbol - 257] + bits_.take(extra[symbol - 257]);
            const int code = distance.symbol(bits_);
            if (code > 29) refuse_stream("a distance is unknown");
            const std::size_t back = far[code] + bits_.take(further[code]);
            if (back > out_.size()) refuse_stream("it refers to data before its start");
            while (length--) put(out_[out_.size() - back]);
        }
    }

    Bits bits_;
    std::size_t size_;
    std::vector<std::uint8_t> out_;
};

}  // namespace

std::vector<std::uint8_t> inflate_zlib(std::string_view stream, std::size_t size) {
    if (stream.size() < 6) refuse_stream("its data ends early");
    const unsigned method = static_cast<std::uint8_t>(stream[0]), flags = static_cast<std::uint8_t>(stream[1]);
    if ((method & 15) != 8 || (flags & 32) || (method << 8 | flags) % 31)
        refuse_stream("it is not compressed with zlib");
    return Inflater(stream.substr(2), size).run();
}

}  // namespace kdx::embed
