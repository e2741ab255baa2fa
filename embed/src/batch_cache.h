// One value for each batch size, such as a compiled model. Each is made once, by the first call that needs it, and outside
// the lock: calls for sizes that are there do not wait for it. As kdx/runtime/kept.py does it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <future>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace kdx::embed {

template <class T>
class BatchCache {
public:
    using Value = std::shared_ptr<T>;
    using Make = std::function<Value(std::size_t batch)>;

    // room: values that are held besides those that keep() was called for; the least recently used is dropped first.
    BatchCache(std::size_t room, Make make) : room_(room), make_(std::move(make)) {}

    // Returns the value of a batch size. Calls that need one that is being made wait for it, and fail where that fails; the
    // next call makes it again.
    Value get(std::size_t batch) { return find(batch, false); }

    // Makes the value of a batch size, which is never dropped.
    void keep(std::size_t batch) { find(batch, true); }

private:
    struct Entry {
        std::size_t batch;
        bool is_kept;
        std::shared_future<Value> value;
    };

    Value find(std::size_t batch, bool is_kept) {
        std::promise<Value> promise;
        std::shared_future<Value> value;
        bool is_new = false;
        {
            const std::lock_guard lock(mutex_);
            const auto found = entry_of(batch);
            is_new = found == entries_.end();
            if (is_new) {
                entries_.push_front({batch, false, promise.get_future().share()});
            } else {
                entries_.splice(entries_.begin(), entries_, found);
            }
            entries_.front().is_kept |= is_kept;
            value = entries_.front().value;
            make_room();
        }
        if (!is_new) return value.get();
        try {
            promise.set_value(make_(batch));
        } catch (...) {
            {
                const std::lock_guard lock(mutex_);
                entries_.erase(entry_of(batch));
            }
            promise.set_exception(std::current_exception());
            throw;
        }
        return value.get();
    }

    auto entry_of(std::size_t batch) {
        return std::find_if(entries_.begin(), entries_.end(), [&](const Entry &each) { return each.batch == batch; });
    }

    // What is being made is not dropped: a call that needs it would make it a second time.
    static bool may_be_dropped(const Entry &entry) {
        return !entry.is_kept && entry.value.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    }

    // The entry in front is in use by this call.
    void make_room() {
        auto others = static_cast<std::size_t>(
            std::count_if(entries_.begin(), entries_.end(), [](const Entry &each) { return !each.is_kept; }));
        for (auto each = entries_.end(); others > room_ && each != std::next(entries_.begin());) {
            --each;
            if (!may_be_dropped(*each)) continue;
            each = entries_.erase(each);
            --others;
        }
    }

    const std::size_t room_;
    const Make make_;
    std::mutex mutex_;
    std::list<Entry> entries_;  // the most recently used first
};

}  // namespace kdx::embed
