// Runs a fuzz target without libFuzzer: fuzz_NAME RUNS SEED_FILE...: each seed as it is, then RUNS inputs made from the
// seeds by changing, cutting, repeating and joining bytes. The same numbers every time. A crash ends the program with
// the input in crash-input.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes current;

void keep_input(int number) {
    std::ofstream("crash-input", std::ios::binary)
        .write(reinterpret_cast<const char *>(current.data()), static_cast<std::streamsize>(current.size()));
    std::signal(number, SIG_DFL);
    std::raise(number);
}

class Mutator {
public:
    explicit Mutator(std::vector<Bytes> seeds) : seeds_(std::move(seeds)) {}

    Bytes next() {
        Bytes made = pick(seeds_);
        for (int steps = 1 + below(8); steps > 0; --steps) step(made);
        return made;
    }

private:
    int below(std::size_t limit) { return limit ? static_cast<int>(random_() % limit) : 0; }
    const Bytes &pick(const std::vector<Bytes> &from) { return from[below(from.size())]; }

    void step(Bytes &made) {
        static const std::vector<std::string> words = {"null", "-1", "1e999", "99999999999999999999", "\"\"", "[]", "{}",
                                                       "../", "\\u0000", "true", "NaN", "[[[[[[[[", "\xff\xfe"};
        const auto at = below(made.size() + 1);
        switch (below(7)) {
            case 0:
                if (!made.empty()) made[at % made.size()] ^= static_cast<std::uint8_t>(1 << below(8));
                break;
            case 1:
                if (!made.empty()) made[at % made.size()] = static_cast<std::uint8_t>(random_());
                break;
            case 2: made.resize(at); break;
            case 3: made.insert(made.begin() + at, 1 + below(9), static_cast<std::uint8_t>(random_())); break;
            case 4: made.erase(made.begin() + at, made.begin() + at + below(std::min<std::size_t>(40, made.size() - at + 1))); break;
            case 5: {
                const auto &word = words[below(words.size())];
                made.insert(made.begin() + at, word.begin(), word.end());
                break;
            }
            default: {
                const auto &other = pick(seeds_);
                const auto start = below(other.size() + 1), length = below(std::min<std::size_t>(200, other.size() - start + 1));
                made.insert(made.begin() + at, other.begin() + start, other.begin() + start + length);
            }
        }
    }

    std::vector<Bytes> seeds_;
    std::mt19937 random_{20241122};
};

}  // namespace

int main(int argc, char **argv) {
    if (argc < 2) return std::fprintf(stderr, "%s RUNS [SEED_FILE...]\n", argv[0]), 2;
    for (const int number : {SIGABRT, SIGSEGV, SIGILL, SIGTRAP, SIGFPE}) std::signal(number, keep_input);
    std::vector<Bytes> seeds = {{}, Bytes(64, 0)};
    for (int i = 2; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    std::size_t tried = 0;
    const auto run = [&](Bytes input) {
        current = std::move(input);
        LLVMFuzzerTestOneInput(current.data(), current.size());
        ++tried;
    };
    for (const auto &seed : seeds) run(seed);
    Mutator mutator(seeds);
    for (long runs = std::atol(argv[1]); runs > 0; --runs) run(mutator.next());
    std::printf("%zu inputs, no crash\n", tried);
    return 0;
}
