// kdx_loading BUNDLE: how a bundle is opened, where no call shows it by itself. kdx_loading BUNDLE KEY: what is done with the
// engine "fp16" of a bundle that was signed with it by that key.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "batch_cache.h"
#include "blob_cache.h"
#include "bundle.h"
#include "check.h"
#include "detector.h"
#include "engine_record.h"
#include "error.h"
#include "golden.h"
#include "keys.h"
#include "text.h"
#include "verify.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

template <class Action>
kdx_status status_of(Action &&action, std::string *said = nullptr) {
    try {
        action();
        return KDX_OK;
    } catch (const ke::Failure &failure) {
        if (said) *said = failure.what();
        return failure.status;
    }
}

void files_are_hashed_at_each_reading(const fs::path &path) {
    const auto folder = fs::temp_directory_path() / "kdx-loading-files";
    fs::remove_all(folder);
    const auto refused_at_use = [&](const std::string &name, auto &&use) {
        fs::copy(path, folder, fs::copy_options::recursive);
        const auto bundle = ke::open_bundle(folder);
        CHECK(bundle.check_files("model.onnx") == ke::read_file(path / "model.onnx"));
        std::ofstream(folder / name, std::ios::app) << ' ';
        std::string said;
        CHECK(status_of([&] { use(bundle); }, &said) == KDX_ERROR_BUNDLE);
        CHECK(said.find("'" + name + "' was altered") != std::string::npos);
        fs::remove_all(folder);
    };
    refused_at_use("model.onnx", [](const ke::Bundle &bundle) { bundle.read("model.onnx"); });
    refused_at_use("golden/anomaly_map.npy", [](const ke::Bundle &bundle) { ke::read_golden(bundle); });
    refused_at_use("golden/anomaly_score.npy", [](const ke::Bundle &bundle) { ke::read_golden(bundle); });
    refused_at_use("golden/" + ke::open_bundle(path).golden.front(), [](const ke::Bundle &bundle) { ke::read_golden(bundle); });
}

void caches_of_others_are_not_used_under_a_signature() {
    const auto folder = fs::temp_directory_path() / "kdx-loading-private";
    fs::remove_all(folder);
    const auto refused = [&] { return status_of([&] { ke::BlobCache cache(folder, true); }) == KDX_ERROR_ARGUMENT; };
    const ke::BlobCache open(folder / "cache");
    open.write("a", "blob");
    CHECK(ke::BlobCache(folder / "cache", true).read("a") == "blob");
    for (const auto more : {fs::perms::group_write, fs::perms::others_write, fs::perms::others_write | fs::perms::sticky_bit}) {
        fs::permissions(folder, fs::perms::owner_all | more);
        CHECK(refused());
        CHECK(!ke::BlobCache(folder / "cache").read("b"));  // without a signature, as ever
    }
    // In a folder where others may write, but for what is not theirs, as in /tmp; and below one where they may do anything.
    CHECK(ke::BlobCache(folder / "cache", true).is_kept());
    fs::permissions(folder, fs::perms::all);
    CHECK(status_of([&] { ke::BlobCache cache(folder / "cache", true); }) == KDX_ERROR_ARGUMENT);
    fs::permissions(folder, fs::perms::owner_all);
    // A blob that others may change.
    for (const auto &file : fs::directory_iterator(folder / "cache"))
        fs::permissions(file.path(), fs::perms::group_write, fs::perm_options::add);
    CHECK(!ke::BlobCache(folder / "cache", true).read("a"));
    CHECK(open.read("a") == "blob");
    CHECK(status_of([&] { ke::BlobCache cache("/proc/no/such", true); }) == KDX_ERROR_ARGUMENT);
    CHECK(status_of([&] { ke::BlobCache cache(fs::path(), true); }) == KDX_OK);
    fs::remove_all(folder);
}

// Makes values that a test lets through when it is time, and counts what was made.
class Workshop {
public:
    std::shared_ptr<int> make(std::size_t batch) {
        {
            const std::lock_guard lock(mutex_);
            made_.push_back(batch);
        }
        if (batch == 7) gate.get_future().wait();
        if (batch == 9) throw std::runtime_error("no room");
        return std::make_shared<int>(static_cast<int>(batch));
    }
    std::vector<std::size_t> made() {
        const std::lock_guard lock(mutex_);
        return std::move(made_);
    }

    std::promise<void> gate;

private:
    std::mutex mutex_;
    std::vector<std::size_t> made_;
};

void sizes_are_made_once_and_beside_each_other() {
    Workshop workshop;
    ke::BatchCache<int> cache(2, [&](std::size_t batch) { return workshop.make(batch); });
    cache.keep(1);
    // Two calls need a new size. While it is made, others get what is there, and make what is not.
    std::vector<std::future<std::shared_ptr<int>>> calls;
    for (int i = 0; i < 2; ++i) calls.push_back(std::async(std::launch::async, [&] { return cache.get(7); }));
    for (std::vector<std::size_t> made = workshop.made(); made.size() < 2;) {
        const auto more = workshop.made();
        made.insert(made.end(), more.begin(), more.end());
        std::this_thread::yield();
    }
    for (const std::size_t batch : {1, 2, 3, 4, 1}) CHECK(*cache.get(batch) == static_cast<int>(batch));
    CHECK((workshop.made() == std::vector<std::size_t>{2, 3, 4}));
    workshop.gate.set_value();
    const auto first = calls[0].get(), second = calls[1].get();
    CHECK(first == second && *first == 7);
    CHECK(workshop.made().empty());
}

void the_least_recently_used_size_is_dropped() {
    Workshop workshop;
    ke::BatchCache<int> cache(2, [&](std::size_t batch) { return workshop.make(batch); });
    cache.keep(1);
    cache.get(5);
    cache.keep(5);
    for (const std::size_t batch : {2, 3, 2, 4, 2, 1, 5, 3}) cache.get(batch);
    CHECK((workshop.made() == std::vector<std::size_t>{1, 5, 2, 3, 4, 3}));
}

void a_size_that_failed_is_made_again() {
    Workshop workshop;
    ke::BatchCache<int> cache(2, [&](std::size_t batch) { return workshop.make(batch); });
    for (int i = 0; i < 2; ++i) {
        bool has_failed = false;
        try {
            cache.get(9);
        } catch (const std::runtime_error &) {
            has_failed = true;
        }
        CHECK(has_failed);
    }
    CHECK((workshop.made() == std::vector<std::size_t>{9, 9}));
}

void golden_images_are_compared(const fs::path &path) {
    kdx_options options;
    KDX_INIT(options);
    options.threads = 1, options.precision = "fp32";
    const ke::Detector detector(path.string(), options);
    const auto golden = ke::read_golden(detector.bundle());
    for (const std::size_t batch : {std::size_t{1}, std::size_t{2}, golden.count + 2}) {
        const auto compared = ke::compare(detector, golden, batch);
        CHECK(compared.is_passed() && compared.images == static_cast<int>(golden.count));
        auto changed = golden;
        changed.scores.back() *= 3;
        CHECK(!ke::compare(detector, changed, batch).is_passed());
    }
    const auto fails = [&](auto &&change) {
        auto changed = golden;
        change(changed);
        return !ke::compare(detector, changed).is_passed();
    };
    CHECK(fails([](ke::Golden &changed) { changed.scores[0] *= 3; }));
    CHECK(fails([](ke::Golden &changed) { changed.maps.back() += 1; }));
    // What is no number is not forgotten at the next value.
    CHECK(fails([](ke::Golden &changed) { changed.scores[0] = NAN; }));
    CHECK(fails([](ke::Golden &changed) { changed.maps[changed.maps.size() / 2] = NAN; }));
}

void messages_are_shown_as_text() {
    const auto shown = [](const std::string &text, std::size_t room = 64) {
        std::vector<char> target(room, 'x');
        ke::copy_text(text.c_str(), target.data(), room);
        return std::string(target.data());
    };
    const std::string umlauts = "Pr\xc3\xbc" "fung \xe6\xa4\x9c\xe6\x9f\xbb \xf0\x9f\x94\x8d\n";
    CHECK(shown(umlauts) == umlauts);
    CHECK(shown("\x1b[31mred\x07 \xc2\x9b\x7f") == "?[31mred? ??");
    // No UTF-8: a byte alone, a character that ends early, is longer than need be, half a pair, or beyond the last.
    CHECK(shown("\xff|\xe6\xa4|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80") == "?|??|??|???|????");
    CHECK(shown("abc", 3) == "ab");
    CHECK(shown("ab\xc3\xbc", 4) == "ab");
    CHECK(shown("ab\xc3\xbc", 5) == "ab\xc3\xbc");
    CHECK(shown("", 1).empty());
}

void engines_that_are_not_signed_are_not_opened(const fs::path &path, const char *key) {
    const auto keys = ke::read_public_keys(&key, 1);
    const auto folder = fs::temp_directory_path() / "kdx-loading-engines";
    const ke::Machine machine{"0.0.0", "0.0", "no card", "no system"};
    const auto said_after = [&](kdx_status expected, bool is_required, auto &&change) {
        fs::remove_all(folder);
        fs::copy(path, folder, fs::copy_options::recursive);
        change(folder / "engines");
        const auto bundle = ke::open_bundle(folder, is_required ? &keys : nullptr);
        std::string said;
        CHECK(status_of([&] { ke::find_engine(bundle, "fp32", machine); }, &said) == expected);
        fs::remove_all(folder);
        return said;
    };
    const auto no_plan = [](const fs::path &engines) { fs::remove(engines / "fp16/model.plan"); };
    // What is signed is read, and found to be of another machine; so is what need not be signed.
    CHECK(said_after(KDX_ERROR_BACKEND, true, [](const fs::path &) {}).find("engines/fp16: ") != std::string::npos);
    CHECK(said_after(KDX_ERROR_BACKEND, false, no_plan).find("engines/fp16: ") != std::string::npos);
    const auto refused = [&](const std::string &said, const std::string &file) {
        CHECK(said.find("'engines/" + file + "' in ") == 0 && said.find("is not what was signed") != std::string::npos);
    };
    const auto append = [](const fs::path &file) { std::ofstream(file, std::ios::app) << ' '; };
    refused(said_after(KDX_ERROR_BUNDLE, true, no_plan), "fp16/model.plan");
    refused(said_after(KDX_ERROR_BUNDLE, true, [&](const fs::path &engines) { append(engines / "fp16/model.plan"); }), "fp16/model.plan");
    refused(said_after(KDX_ERROR_BUNDLE, true, [&](const fs::path &engines) { append(engines / "fp16/engine.json"); }), "fp16/engine.json");
    refused(said_after(KDX_ERROR_BUNDLE, true, [](const fs::path &engines) {
                fs::copy(engines / "fp16", engines / "later");
            }), "later/engine.json");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) return std::fprintf(stderr, "kdx_loading BUNDLE [KEY]\n"), 2;
    if (argc == 3) {
        engines_that_are_not_signed_are_not_opened(argv[1], argv[2]);
        return failures ? 1 : 0;
    }
    files_are_hashed_at_each_reading(argv[1]);
    caches_of_others_are_not_used_under_a_signature();
    sizes_are_made_once_and_beside_each_other();
    the_least_recently_used_size_is_dropped();
    a_size_that_failed_is_made_again();
    golden_images_are_compared(argv[1]);
    messages_are_shown_as_text();
    return failures ? 1 : 0;
}
