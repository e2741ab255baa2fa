// State that the fakes of CUDA and TensorRT share.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace fake {

using Operation = std::function<void()>;
using Lock = std::lock_guard<std::recursive_mutex>;

struct State {
    std::recursive_mutex mutex;
    std::vector<std::string> misuses;
    std::map<std::string, std::size_t> calls;
    std::set<const void *> held;
    std::size_t fail_at = 0;
    std::string fail_name, failed;
    bool refuses_captures = false;
    cudaError_t last = cudaSuccess;
};

State &state();

void misuse(const std::string &what);

// Counts a call, and returns whether it is the one that must fail.
bool fails(const char *name);

// Removes an object from those that are allocated. An object that is not among them was freed twice
// or never created.
bool release_object(const void *thing, const char *name);

}  // namespace fake

struct FakeStream {
    std::vector<fake::Operation> pending, captured;
    bool is_capturing = false, is_valid = true;

    void queue(fake::Operation operation) { (is_capturing ? captured : pending).push_back(std::move(operation)); }
};
struct FakeGraph {
    std::vector<fake::Operation> operations;
};
struct FakeGraphExec {
    std::vector<fake::Operation> operations;
};
