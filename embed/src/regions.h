// Where the defect is: see kdx/decision/regions.py.
#pragma once

#include <vector>

#include "bundle.h"
#include "kdx/kdx.h"
#include "position.h"

namespace kdx::embed {

// The regions of a map whose values exceed a threshold, that with the highest peak first. level: by which the map was divided; null:
// nothing. pixel_size_um 0: not known. Throws Failure where a value is not finite, or below any that the method can give.
std::vector<kdx_region> find_regions(const Bundle &bundle, const Level *level, const kdx_map &map, double threshold,
                                     double min_area, double pixel_size_um);

}  // namespace kdx::embed
