// Frames larger than a graph's input: cut into tiles, and their maps put together, exactly as kdx/imaging/tiling.py does it.
#pragma once

#include <memory>
#include <vector>

#include "backend.h"

namespace kdx::embed {

// A backend for frames, on one that holds the graph of a bundle with tiles.
std::unique_ptr<Backend> tiled(std::unique_ptr<Backend> graph, const Bundle &bundle);

}  // namespace kdx::embed
