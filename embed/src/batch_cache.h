// Keeps one value per batch size, such as a compiled model. The first call that needs a value makes
// it, outside the lock, so that calls for other sizes do not wait. The counterpart of
// kdx/runtime/openvino/batch_cache.py.
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

    // room: number of values to hold besides those of keep(). The least recently used value is
    // dropped first.
    BatchCache(std::size_t room, Make make) : room_(room), make_(std::move(make)) {}

    // Returns the value of a batch size. A call that needs a value that another call is making
    // waits for it and fails if that call fails. The next call then makes the value again.
    Value get(std::size_t batch) { return find(batch, false); }

    // Makes the value of a batch size and never drops it.
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

    // A value that is being made is not dropped, because a call that needs it would make it a
    // second time.
    static bool may_be_dropped(const Entry &entry) {
        return !entry.is_kept && entry.value.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    }

    // This call uses the first entry, which is not dropped.
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
