// Whether a detector decides here what it decided when its bundle was exported: the golden images through its graph,
// compared with the FP32 reference that the bundle holds. As kdx/verification/certificate.py and kdx/verification/golden.py do it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "detector.h"
#include "golden.h"

namespace kdx::embed {

struct Comparison {
    int images = 0;
    int flips = -1;                                   // decisions that differ from the reference's; -1: without thresholds
    double score_difference = 0, map_difference = 0;  // largest, relative; NaN where an answer is not finite
    double score_allowed = 0, map_allowed = 0;

    bool is_passed() const {
        return score_difference <= score_allowed && map_difference <= map_allowed && flips <= 0;
    }
    std::string said() const;
};

// Runs the golden images in batches of exactly so many, beginning again with the first to fill the last one.
Comparison compare(const Detector &detector, const Golden &golden, std::size_t batch = 1);

// What kdx_open does before it hands out a detector, at the graph's batch sizes that were asked for; throws Failure (KDX_ERROR_BACKEND) that says by how much the golden
// images differ, or (KDX_ERROR_BUNDLE) where they cannot be read.
void require_reference(const Detector &detector, const std::vector<std::size_t> &batches);

double median_of(std::vector<double> values);

}  // namespace kdx::embed
