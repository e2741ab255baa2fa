// kdx_reference: the comparison of the golden images with the reference.
#include <cmath>
#include <string>

#include "check.h"
#include "golden.h"
#include "open_detector.h"
#include "test_bundle.h"
#include "verify.h"

namespace ke = kdx::embed;

namespace {

void golden_images_are_compared(const std::string &path) {
    kdx_options options;
    KDX_INIT(options);
    options.threads = 1, options.precision = "fp32";
    const auto opened = ke::open_detector(path, options);
    const auto &detector = *opened;
    const auto golden = ke::read_golden(detector.bundle());
    for (const std::size_t batch : {std::size_t{1}, std::size_t{2}, golden.count + 2}) {
        const auto compared = ke::compare(detector, golden, batch);
        CHECK(compared.is_passed() && compared.images == static_cast<int>(golden.count));
        auto changed = golden;
        changed.scores.back() *= 3;
        CHECK(!ke::compare(detector, changed, batch).is_passed());
    }
    const auto fails_after = [&](auto &&change) {
        auto changed = golden;
        change(changed);
        return !ke::compare(detector, changed).is_passed();
    };
    CHECK(fails_after([](ke::Golden &changed) { changed.scores[0] *= 3; }));
    CHECK(fails_after([](ke::Golden &changed) { changed.maps.back() += 1; }));
    // A NaN is not forgotten at the next value.
    CHECK(fails_after([](ke::Golden &changed) { changed.scores[0] = NAN; }));
    CHECK(fails_after([](ke::Golden &changed) { changed.maps[changed.maps.size() / 2] = NAN; }));
}

}  // namespace

int main() {
    golden_images_are_compared(test_bundle());
    return status();
}
