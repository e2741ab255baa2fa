// Where a defect is. The counterpart of kdx/decision/regions.py.
#pragma once

#include <vector>

#include "bundle.h"
#include "kdx/kdx.h"
#include "level_map.h"

namespace kdx::embed {

// Finds the regions of a map whose values exceed a threshold, the region with the highest peak
// first. level: the level map by which the map was divided; null: none. pixel_size_um: 0 if not
// known. Throws Failure (KDX_ERROR_ARGUMENT) if a value is not finite, or below the lowest value
// that the method can compute.
std::vector<kdx_region> find_regions(const Bundle &bundle, const Level *level, const kdx_map &map, double threshold,
                                     double min_area, double pixel_size_um);

}  // namespace kdx::embed
