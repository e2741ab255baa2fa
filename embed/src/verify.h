// Checks that a detector decides on this machine as it did when its bundle was exported: it runs
// the golden images and compares their answers with the reference in the bundle. The counterpart of
// kdx/verification/comparison.py and kdx/verification/golden.py.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "detector.h"
#include "golden.h"

namespace kdx::embed {

struct Comparison {
    int images = 0;
    // Decisions that differ from the reference; -1: no threshold.
    int flips = -1;
    // The largest relative differences; NaN if an answer is not finite.
    double score_difference = 0, map_difference = 0;
    double score_allowed = 0, map_allowed = 0;

    bool is_passed() const { return score_difference <= score_allowed && map_difference <= map_allowed && flips <= 0; }
    // Describes the differences for messages.
    std::string text() const;
};

// Runs the golden images in batches of exactly `batch`. The first images repeat to fill the last
// batch.
Comparison compare(const Detector &detector, const Golden &golden, std::size_t batch = 1);

// Compares the golden images in batches of several sizes. Throws Failure (KDX_ERROR_BACKEND) with
// the differences if they exceed the tolerances, and Failure (KDX_ERROR_BUNDLE) if the golden
// images cannot be read.
void require_reference(const Detector &detector, const std::vector<std::size_t> &batches);

double median_of(std::vector<double> values);

}  // namespace kdx::embed
