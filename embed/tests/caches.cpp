// kdx_caches: the cache of compiled models on disk, and the one in memory.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "batch_cache.h"
#include "blob_cache.h"
#include "check.h"
#include "support.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

void caches_return_only_complete_blobs() {
    const TemporaryFolder root;
    const auto folder = root / "cache";
    const ke::BlobCache cache(folder), none{fs::path()};
    CHECK(!cache.read("a"));
    cache.write("a", "blob");
    CHECK(cache.read("a") == "blob");
    CHECK(!cache.read("b"));
    for (const auto &file : fs::directory_iterator(folder)) std::ofstream(file.path(), std::ios::app) << 'x';
    CHECK(!cache.read("a"));
    none.write("a", "blob");
    CHECK(!none.read("a"));
    ke::BlobCache("/proc/no/such").write("a", "blob");  // costs time but changes no answer
    CHECK(cache.remark().empty() && none.remark().empty());
}

void caches_that_cannot_be_written_are_named() {
    const TemporaryFolder root;
    std::ofstream(root / "file") << ' ';
    for (const auto &[folder, why] : {std::pair(fs::path("/proc/no/such"), "No such file"),
                                      std::pair(root / "file", "Not a directory"),
                                      std::pair(root / "file/cache", "Not a directory")}) {
        const auto remark = ke::BlobCache(folder).remark();
        CHECK(contains(remark, "the cache '" + folder.string() + "' cannot be written: ") && contains(remark, why));
    }
}

// Sparse files stand for large models.
void caches_are_bounded() {
    const TemporaryFolder folder;
    const ke::BlobCache cache(folder);
    const auto now = fs::file_time_type::clock::now();
    const auto put = [&](const char *name, std::uintmax_t bytes, std::chrono::hours age) {
        std::ofstream(folder / name) << ' ';
        fs::resize_file(folder / name, bytes);
        fs::last_write_time(folder / name, now - age);
    };
    cache.write("used", "blob");
    for (const auto &file : fs::directory_iterator(folder))
        fs::last_write_time(file.path(), now - std::chrono::hours(9));
    put("old.blob", std::uintmax_t{1} << 29, std::chrono::hours(3));
    put("newer.blob", (std::uintmax_t{1} << 30) - 1000, std::chrono::hours(2));
    put("other.txt", std::uintmax_t{1} << 31, std::chrono::hours(9));
    put(".new-left", 9, std::chrono::hours(2));
    put(".new-written", 9, std::chrono::hours(0));
    CHECK(cache.read("used") == "blob");  // from now on it is the one that was used last
    cache.write("new", "blob");
    CHECK(cache.read("used") == "blob" && cache.read("new") == "blob");
    for (const auto *kept : {"newer.blob", "other.txt", ".new-written"}) CHECK(fs::exists(folder / kept));
    for (const auto *removed : {"old.blob", ".new-left"}) CHECK(!fs::exists(folder / removed));
}

void caches_of_others_are_not_used_under_a_signature() {
    const TemporaryFolder root;
    const auto folder = root / "private";
    const auto refused = [&] { return status_of([&] { ke::BlobCache cache(folder, true); }) == KDX_ERROR_ARGUMENT; };
    const ke::BlobCache open(folder / "cache");
    open.write("a", "blob");
    CHECK(ke::BlobCache(folder / "cache", true).read("a") == "blob");
    for (const auto more :
         {fs::perms::group_write, fs::perms::others_write, fs::perms::others_write | fs::perms::sticky_bit}) {
        fs::permissions(folder, fs::perms::owner_all | more);
        CHECK(refused());
        CHECK(!ke::BlobCache(folder / "cache").read("b"));  // without a signature it is still used
    }
    // The parent folder is sticky, as /tmp is, so that others cannot move the cache. After that,
    // others may do anything.
    CHECK(ke::BlobCache(folder / "cache", true).is_kept());
    fs::permissions(folder, fs::perms::all);
    CHECK(status_of([&] { ke::BlobCache cache(folder / "cache", true); }) == KDX_ERROR_ARGUMENT);
    fs::permissions(folder, fs::perms::owner_all);
    // Others may change the blob.
    for (const auto &file : fs::directory_iterator(folder / "cache"))
        fs::permissions(file.path(), fs::perms::group_write, fs::perm_options::add);
    CHECK(!ke::BlobCache(folder / "cache", true).read("a"));
    CHECK(open.read("a") == "blob");
    CHECK(status_of([&] { ke::BlobCache cache("/proc/no/such", true); }) == KDX_ERROR_ARGUMENT);
    CHECK(status_of([&] { ke::BlobCache cache(fs::path(), true); }) == KDX_OK);
}

// Makes values and records for which batch sizes. A value for 7 waits for the gate, and one for 9
// fails.
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

void values_are_made_once_and_do_not_block_others() {
    Workshop workshop;
    ke::BatchCache<int> cache(2, [&](std::size_t batch) { return workshop.make(batch); });
    cache.keep(1);
    // Two calls need a new value. While it is made, other calls get existing values and make
    // missing ones.
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

void the_least_recently_used_value_is_dropped() {
    Workshop workshop;
    ke::BatchCache<int> cache(2, [&](std::size_t batch) { return workshop.make(batch); });
    cache.keep(1);
    cache.get(5);
    cache.keep(5);
    for (const std::size_t batch : {2, 3, 2, 4, 2, 1, 5, 3}) cache.get(batch);
    CHECK((workshop.made() == std::vector<std::size_t>{1, 5, 2, 3, 4, 3}));
}

void a_value_that_failed_is_made_again() {
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

}  // namespace

int main() {
    caches_return_only_complete_blobs();
    caches_that_cannot_be_written_are_named();
    caches_are_bounded();
    caches_of_others_are_not_used_under_a_signature();
    values_are_made_once_and_do_not_block_others();
    the_least_recently_used_value_is_dropped();
    a_value_that_failed_is_made_again();
    return status();
}
