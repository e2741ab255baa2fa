// Checks that an ONNX file contains only standard operations and its own weights. The counterpart
// of kdx/bundle/plain_graph.py.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace kdx::embed {

// Throws Failure (KDX_ERROR_BUNDLE) if the file is not an ONNX graph, has an operation of another
// domain than ONNX's own, or keeps a tensor in another file. name and bundle are for the message.
void require_plain_graph(std::string_view data, const std::string &name, const std::filesystem::path &bundle);

}  // namespace kdx::embed
