#include "openvino_graph.h"

#include <algorithm>
#include <cstring>
#include <openvino/core/graph_util.hpp>
#include <openvino/op/clamp.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/op/max_pool.hpp>
#include <openvino/op/reduce_sum.hpp>
#include <openvino/op/relu.hpp>
#include <openvino/op/util/max_pool_base.hpp>
#include <openvino/pass/serialize.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace kdx::embed {

namespace {

constexpr float kInt8Max = 127, kUint8Max = 255;

bool starts_with(const std::string &text, const char *start) { return text.rfind(start, 0) == 0; }

bool is_channel_sum(const ov::op::v1::Convolution &convolution) {
    const auto weights = ov::as_type_ptr<ov::op::v0::Constant>(convolution.get_input_node_shared_ptr(1));
    if (!weights || !starts_with(convolution.get_friendly_name(), "tail")) return false;
    const auto &shape = weights->get_shape();
    if (shape.size() != 4 || shape[0] != 1 || shape[2] != 1 || shape[3] != 1) return false;
    const auto values = weights->cast_vector<float>();
    return std::all_of(values.begin(), values.end(), [](float value) { return value == 1.0f; });
}

bool is_not_negative(const std::shared_ptr<ov::Node> &node) {
    if (ov::as_type_ptr<ov::op::util::MaxPoolBase>(node)) return is_not_negative(node->get_input_node_shared_ptr(0));
    if (const auto clamp = ov::as_type_ptr<ov::op::v0::Clamp>(node)) return clamp->get_min() >= 0;
    return ov::as_type_ptr<ov::op::v0::Relu>(node) != nullptr;
}

// Returns the only user of a FakeQuantize of non-negative values, if it is a Convert to int8; null
// otherwise.
std::shared_ptr<ov::Node> signed_convert(const std::shared_ptr<ov::op::v0::FakeQuantize> &quantise) {
    const auto users = quantise->output(0).get_target_inputs();
    if (users.size() != 1 || !is_not_negative(quantise->get_input_node_shared_ptr(0))) return nullptr;
    const auto convert = ov::as_type_ptr<ov::op::v0::Convert>(users.begin()->get_node()->shared_from_this());
    return convert && convert->get_destination_type() == ov::element::i8 ? convert : nullptr;
}

// Returns the value of an attribute in an XML start tag; empty if it has none.
std::string attribute_of(const std::string &tag, const std::string &attribute) {
    const auto start = tag.find(' ' + attribute + "=\"");
    if (start == std::string::npos) return "";
    const auto first = start + attribute.size() + 3;
    return tag.substr(first, tag.find('"', first) - first);
}

bool is_outside_the_networks(const std::string &layer) {
    const auto kind = attribute_of(layer, "type"), name = attribute_of(layer, "name");
    if (kind == "Const" || kind == "Parameter" || kind == "Result") return false;
    return starts_with(name, "preprocess") || starts_with(name, "tail") || starts_with(name, "anomaly_map") ||
           starts_with(name, "anomaly_score");
}

// Returns the XML of a graph in which every layer outside the networks is marked as precise.
std::string marked(const std::string &xml) {
    const std::string mark = "<attribute name=\"precise\" version=\"0\" />";
    std::string result;
    std::size_t done = 0;
    for (auto start = xml.find("<layer "); start != std::string::npos; start = xml.find("<layer ", start + 1)) {
        const auto tag_end = xml.find('>', start) + 1;
        if (!is_outside_the_networks(xml.substr(start, tag_end - start))) continue;
        // In a layer, <data> comes first and <rt_info> second. Either may be missing.
        const auto layer_end = xml.find("</layer>", tag_end);
        const auto notes = std::min(xml.find("<rt_info>", tag_end), layer_end);
        auto data = std::min(xml.find("<data", tag_end), layer_end);
        if (data != layer_end) data = xml.find('>', data) + 1;
        const bool has_notes = notes != layer_end;
        const auto at = has_notes ? notes + std::strlen("<rt_info>") : data != layer_end ? data : tag_end;
        result += xml.substr(done, at - done) + (has_notes ? mark : "<rt_info>" + mark + "</rt_info>");
        done = at;
    }
    return result + xml.substr(done);
}

void replace(const std::shared_ptr<ov::Node> &old, const std::shared_ptr<ov::Node> &now) {
    now->set_friendly_name(old->get_friendly_name());
    ov::replace_node(old, now);
}

}  // namespace

void reduce_channel_sums(ov::Model &model) {
    for (const auto &node : model.get_ordered_ops()) {
        const auto convolution = ov::as_type_ptr<ov::op::v1::Convolution>(node);
        if (!convolution || !is_channel_sum(*convolution)) continue;
        const auto axes = ov::op::v0::Constant::create(ov::element::i64, {1}, {1});
        replace(node, std::make_shared<ov::op::v1::ReduceSum>(node->input_value(0), axes, true));
    }
    model.validate_nodes_and_infer_types();
}

void use_unsigned_activations(ov::Model &model) {
    std::vector<std::pair<std::shared_ptr<ov::op::v0::FakeQuantize>, std::shared_ptr<ov::Node>>> found;
    for (const auto &node : model.get_ordered_ops())
        if (const auto quantise = ov::as_type_ptr<ov::op::v0::FakeQuantize>(node))
            if (auto convert = signed_convert(quantise)) found.emplace_back(quantise, std::move(convert));
    for (const auto &[quantise, convert] : found) {
        const auto largest = ov::as_type_ptr<ov::op::v0::Constant>(quantise->get_input_node_shared_ptr(2));
        if (!largest) continue;
        auto tops = largest->cast_vector<float>();
        const auto zeros =
            ov::op::v0::Constant::create(ov::element::f32, largest->get_shape(), std::vector<float>(tops.size(), 0.0f));
        for (auto &top : tops) top = top / kInt8Max * kUint8Max;
        const auto top = ov::op::v0::Constant::create(ov::element::f32, largest->get_shape(), tops);
        const auto none = ov::op::v0::Constant::create(ov::element::f32, {}, {0.0f});
        const auto most = ov::op::v0::Constant::create(ov::element::f32, {}, {kUint8Max});
        const auto quantised =
            std::make_shared<ov::op::v0::FakeQuantize>(quantise->input_value(0), zeros, top, none, most, 256);
        quantised->set_friendly_name(quantise->get_friendly_name());
        replace(convert, std::make_shared<ov::op::v0::Convert>(quantised, ov::element::u8));
    }
    model.validate_nodes_and_infer_types();
}

std::shared_ptr<ov::Model> with_fp32_island(ov::Core &core, const std::shared_ptr<ov::Model> &model) {
    std::stringstream xml, weights;
    ov::pass::Serialize(xml, weights).run_on_model(model);
    const auto bytes = weights.str();
    ov::Tensor constants(ov::element::u8, {bytes.size()});
    std::memcpy(constants.data(), bytes.data(), bytes.size());
    return core.read_model(marked(xml.str()), constants);
}

}  // namespace kdx::embed
