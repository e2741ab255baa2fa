// Three changes to a graph when the OpenVINO backend loads it. They change how values are computed,
// never the values that the graph defines. The counterpart of kdx/runtime/openvino/graph.py, which
// gives the reasons and figures.
#pragma once

#include <memory>
#include <openvino/core/model.hpp>
#include <openvino/runtime/core.hpp>

namespace kdx::embed {

// Replaces the sums over channels in the tail, which are 1 x 1 convolutions with ones, by
// reductions.
void reduce_channel_sums(ov::Model &model);

// Quantises activations that cannot be negative to uint8 instead of int8, with the same step.
void use_unsigned_activations(ov::Model &model);

// Returns a model whose operations outside the networks compute in FP32, whatever the precision
// hint is. OpenVINO's file format is the only place for this mark ("precise"), so the model is
// written and read in memory.
std::shared_ptr<ov::Model> with_fp32_island(ov::Core &core, const std::shared_ptr<ov::Model> &model);

}  // namespace kdx::embed
