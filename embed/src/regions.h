// Where the defect is: see kdx/regions.py.
#pragma once

#include <vector>

#include "bundle.h"
#include "kdx/kdx.h"

namespace kdx::embed {

// The regions of a map whose values exceed a threshold, that with the highest peak first. pixel_size_um 0: not known.
std::vector<kdx_region> find_regions(const Bundle &bundle, const kdx_map &map, double threshold, double min_area,
                                     double pixel_size_um);

}  // namespace kdx::embed
