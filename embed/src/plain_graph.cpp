#include "plain_graph.h"

#include <cstdint>
#include <vector>

#include "error.h"

namespace kdx::embed {

namespace {

enum class Kind { model, training, graph, function, node, attribute, sparse, tensor, other };
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr std::uint64_t kLastField = (1u << 29) - 1;

// Returns the kind of message in a field, as onnx.proto defines it; Kind::other for messages that
// are not inspected.
Kind child_of(Kind kind, std::uint64_t field) {
    switch (kind) {
        case Kind::model:
            return field == 7 ? Kind::graph : field == 20 ? Kind::training : field == 25 ? Kind::function : Kind::other;
        case Kind::training: return field == 1 || field == 2 ? Kind::graph : Kind::other;
        case Kind::graph:
            return field == 1 ? Kind::node : field == 5 ? Kind::tensor : field == 15 ? Kind::sparse : Kind::other;
        case Kind::function: return field == 7 ? Kind::node : field == 11 ? Kind::attribute : Kind::other;
        case Kind::node: return field == 5 ? Kind::attribute : Kind::other;
        case Kind::attribute:
            if (field == 5 || field == 10) return Kind::tensor;
            if (field == 6 || field == 11) return Kind::graph;
            return field == 22 || field == 23 ? Kind::sparse : Kind::other;
        case Kind::sparse: return field == 1 || field == 2 ? Kind::tensor : Kind::other;
        default: return Kind::other;
    }
}

bool is_domain(Kind kind, std::uint64_t field) {
    return (kind == Kind::node && field == 7) || (kind == Kind::function && field == 10);
}

struct NotOnnx {};

struct Field {
    std::uint64_t number, value;  // value: only of a varint
    int wire;
    std::string_view content;
};

class Fields {
public:
    explicit Fields(std::string_view data) : data_(data) {}
    bool is_done() const { return data_.empty(); }

    Field next() {
        const auto key = varint();
        Field field{key >> 3, 0, static_cast<int>(key & 7), {}};
        // Other readers would truncate a larger number to a valid field.
        if (field.number < 1 || field.number > kLastField) throw NotOnnx{};
        switch (field.wire) {
            case kVarint: field.value = varint(); return field;
            case kBytes: field.content = take(varint()); return field;
            case kFixed32: field.content = take(4); return field;
            case kFixed64: field.content = take(8); return field;
            default: throw NotOnnx{};  // groups, which ONNX does not use, or an invalid wire type
        }
    }

private:
    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < 10 && i < data_.size(); ++i) {
            const auto byte = static_cast<std::uint8_t>(data_[i]);
            value |= std::uint64_t{byte & 0x7fu} << (7 * i);
            if (byte < 0x80) {
                data_.remove_prefix(i + 1);
                return value;
            }
        }
        throw NotOnnx{};
    }

    std::string_view take(std::uint64_t length) {
        if (length > data_.size()) throw NotOnnx{};
        const auto taken = data_.substr(0, static_cast<std::size_t>(length));
        data_.remove_prefix(static_cast<std::size_t>(length));
        return taken;
    }

    std::string_view data_;
};

// Returns what must not be in the graph; empty for nothing.
std::string first_fault(std::string_view data) {
    // A stack instead of recursion: the writer of the file determines how deep graphs nest.
    std::vector<std::pair<Kind, std::string_view>> pending = {{Kind::model, data}};
    bool has_graph = false;
    while (!pending.empty()) {
        const auto [kind, message] = pending.back();
        pending.pop_back();
        for (Fields fields(message); !fields.is_done();) {
            const auto field = fields.next();
            const bool is_external =
                field.number == 13 || (field.number == 14 && (field.wire != kVarint || field.value));
            if (kind == Kind::tensor && is_external) return "a tensor in another file (external data)";
            if (field.wire != kBytes) continue;
            if (is_domain(kind, field.number) && !field.content.empty() && field.content != "ai.onnx")
                return "an operation of the domain '" + std::string(field.content) + "'";
            const auto child = child_of(kind, field.number);
            has_graph |= kind == Kind::model && child == Kind::graph;
            if (child != Kind::other) pending.emplace_back(child, field.content);
        }
    }
    if (!has_graph) throw NotOnnx{};
    return "";
}

}  // namespace

void require_plain_graph(std::string_view data, const std::string &name, const std::filesystem::path &bundle) {
    const auto file = "'" + name + "' of '" + bundle.string() + "'";
    std::string fault;
    try {
        fault = first_fault(data);
    } catch (const NotOnnx &) {
        throw Failure(KDX_ERROR_BUNDLE, "kdx cannot load " + file + ": it is not an ONNX graph",
                      {"", "", "export the bundle again"});
    }
    if (!fault.empty())
        throw Failure(KDX_ERROR_BUNDLE, file + " could load code or files from elsewhere",
                      {"standard ONNX operations, and every weight inside the file", fault,
                       "do not use this bundle; graphs that kdx exports contain nothing of this kind"});
}

}  // namespace kdx::embed
