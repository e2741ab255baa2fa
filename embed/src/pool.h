// A pool of objects of which each call uses one at a time, such as inference requests.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace kdx::embed {

template <class T>
class Pool {
public:
    explicit Pool(std::function<std::unique_ptr<T>()> make) : make_(std::move(make)) {}

    // A borrowed member. A call that succeeds gives it back; after a failed call it is dropped, as
    // its state is not known.
    class Loan {
    public:
        Loan(Pool &pool, std::unique_ptr<T> member) : pool_(pool), member_(std::move(member)) {}
        Loan(const Loan &) = delete;
        Loan &operator=(const Loan &) = delete;
        T *operator->() const { return member_.get(); }
        T &operator*() const { return *member_; }
        void give_back() {
            const std::lock_guard lock(pool_.mutex_);
            pool_.idle_.push_back(std::move(member_));
        }

    private:
        Pool &pool_;
        std::unique_ptr<T> member_;
    };

    Loan take() {
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                auto member = std::move(idle_.back());
                idle_.pop_back();
                return Loan(*this, std::move(member));
            }
        }
        return Loan(*this, make_());  // outside the lock, because it takes long
    }

private:
    std::function<std::unique_ptr<T>()> make_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<T>> idle_;
};

}  // namespace kdx::embed
