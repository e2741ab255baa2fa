// What the OpenVINO backend changes in a graph when it loads it: how things are computed, never what. The same three
// changes as kdx/runtime/openvino/graph.py, which gives their reasons and figures.
#pragma once

#include <memory>
#include <openvino/core/model.hpp>
#include <openvino/runtime/core.hpp>

namespace kdx::embed {

// Replaces the tail's sums over channels, 1 x 1 convolutions with ones, by reductions.
void reduce_channel_sums(ov::Model &model);

// Quantises to uint8 what cannot be negative, with the same step as before.
void use_unsigned_activations(ov::Model &model);

// Returns a model whose operations outside the networks keep FP32 whatever the precision hint says. The mark ("precise")
// can be set in OpenVINO's own file format only; it is written and read in memory.
std::shared_ptr<ov::Model> with_fp32_island(ov::Core &core, const std::shared_ptr<ov::Model> &model);

}  // namespace kdx::embed
