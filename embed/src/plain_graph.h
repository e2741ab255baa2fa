// Whether an ONNX file is nothing but standard operations on weights of its own: see kdx/bundle/plain_graph.py.
#pragma once

#include <string>
#include <string_view>

namespace kdx::embed {

// Throws Failure (KDX_ERROR_BUNDLE) where the file is no ONNX graph, has an operation of another domain than ONNX's own,
// or keeps a tensor in another file. name is for the message.
void require_plain_graph(std::string_view data, const std::string &name);

}  // namespace kdx::embed
