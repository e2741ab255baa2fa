// Cuts frames that are larger than a graph's input into tiles and stitches the maps of the tiles.
// The counterpart of kdx/imaging/tiling.py.
#pragma once

#include <memory>
#include <vector>

#include "backend.h"

namespace kdx::embed {

// Returns a backend for frames. `graph` is the backend that runs the graph of the tiles.
std::unique_ptr<Backend> tiled(std::unique_ptr<Backend> graph, const Bundle &bundle);

}  // namespace kdx::embed
