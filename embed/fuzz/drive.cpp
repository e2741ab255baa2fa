// Runs a fuzz target without libFuzzer: fuzz_NAME RUNS SEED... A seed is a file of the test bundle,
// or a folder with files. The program runs each seed, the file in KDX_TEST_KEY if that is set, and
// RUNS inputs that it makes from the seeds by changing, cutting, repeating and joining bytes. The
// random numbers are the same in every run. If the target crashes, the input is written to
// crash-input.
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "test_bundle.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

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
        static const std::vector<std::string> words = {
            "null", "-1",       "1e999",   "99999999999999999999", "\"\"", "[]", "{}", "../", "\\u0000", "true",
            "NaN",  "[[[[[[[[", "\xff\xfe"};
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
            case 4:
                made.erase(made.begin() + at,
                           made.begin() + at + below(std::min<std::size_t>(40, made.size() - at + 1)));
                break;
            case 5: {
                const auto &word = words[below(words.size())];
                made.insert(made.begin() + at, word.begin(), word.end());
                break;
            }
            default: {
                const auto &other = pick(seeds_);
                const auto start = below(other.size() + 1),
                           length = below(std::min<std::size_t>(200, other.size() - start + 1));
                made.insert(made.begin() + at, other.begin() + start, other.begin() + start + length);
            }
        }
    }

    std::vector<Bytes> seeds_;
    std::mt19937 random_{20241122};
};

Bytes read_file(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) std::fprintf(stderr, "there is no seed '%s'\n", path.string().c_str()), std::exit(2);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<Bytes> read_seeds(const std::vector<std::string> &names) {
    std::vector<Bytes> seeds = {{}, Bytes(64, 0)};
    for (const auto &name : names) {
        const auto path = std::filesystem::path(test_bundle()) / name;
        if (!std::filesystem::is_directory(path)) {
            seeds.push_back(read_file(path));
            continue;
        }
        for (const auto &entry : std::filesystem::directory_iterator(path)) seeds.push_back(read_file(entry.path()));
    }
    if (const char *key = std::getenv("KDX_TEST_KEY")) seeds.push_back(read_file(key));
    std::sort(seeds.begin(), seeds.end());
    return seeds;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 2) return std::fprintf(stderr, "%s RUNS [SEED...]\n", argv[0]), 2;
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    for (const int number : {SIGABRT, SIGSEGV, SIGILL, SIGTRAP, SIGFPE}) std::signal(number, keep_input);
    const auto seeds = read_seeds({argv + 2, argv + argc});
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
