#include "fake.h"

#include "state.h"

namespace fake {

State &state() {
    static State made;
    return made;
}

void misuse(const std::string &what) { state().misuses.push_back(what); }

bool fails(const char *name) {
    auto &all = state();
    ++all.calls[name];
    if (all.fail_at == 0 || (!all.fail_name.empty() && all.fail_name != name) || --all.fail_at) return false;
    all.failed = name;
    all.last = cudaErrorUnknown;
    return true;
}

bool release_object(const void *thing, const char *name) {
    if (state().held.erase(thing)) return true;
    misuse(std::string(name) + " of an object that does not exist");
    return false;
}

std::vector<std::string> misuses() {
    const Lock lock(state().mutex);
    return state().misuses;
}

std::size_t calls(const std::string &name) {
    const Lock lock(state().mutex);
    std::size_t found = 0;
    for (const auto &[each, count] : state().calls)
        if (name.empty() || each == name) found += count;
    return found;
}

void fail_at(std::size_t count, const std::string &name) {
    const Lock lock(state().mutex);
    state().fail_at = count, state().fail_name = name, state().failed.clear();
}

std::string failed() {
    const Lock lock(state().mutex);
    return state().failed;
}

void refuse_captures(bool refused) {
    const Lock lock(state().mutex);
    state().refuses_captures = refused;
}

std::size_t held() {
    const Lock lock(state().mutex);
    return state().held.size();
}

float score_of(const unsigned char *image, std::size_t bytes) {
    double sum = 0;
    for (std::size_t i = 0; i < bytes; ++i) sum += image[i];
    return static_cast<float>(sum / static_cast<double>(bytes) / 4096);  // far below any threshold
}

}  // namespace fake
