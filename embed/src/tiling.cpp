#include "tiling.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kdx::embed {

namespace {

// The part of a tile's map that the frame's map uses, along an axis: its start in both maps, and
// its weights.
struct Place {
    int in_tile = 0, in_frame = 0;
    std::vector<float> weights;
};

// As _places of kdx/imaging/tiling.py. All lengths are in pixels of the map; the weights sum to 1
// at every pixel.
std::vector<Place> places(const std::vector<int> &starts, int scale, int length, int overlap, int halo) {
    const int total = starts.back() / scale + length, ramp = std::max(1, (overlap - 2 * halo) / scale);
    const int margin = halo / scale, count = static_cast<int>(starts.size());
    const auto raw = [&](int tile, int pixel) {
        const double inner = pixel + 0.5;
        const double rise = tile == 0 ? 1 : std::clamp((inner - margin) / ramp, 0.0, 1.0);
        const double fall = tile == count - 1 ? 1 : std::clamp((length - margin - inner) / ramp, 0.0, 1.0);
        return std::min(rise, fall);
    };
    std::vector<double> sums(static_cast<std::size_t>(total));
    for (int tile = 0; tile < count; ++tile)
        for (int pixel = 0; pixel < length; ++pixel) sums[starts[tile] / scale + pixel] += raw(tile, pixel);
    std::vector<Place> result(starts.size());
    for (int tile = 0; tile < count; ++tile) {
        auto &place = result[tile];
        int low = 0, high = length;
        while (raw(tile, low) == 0) ++low;
        while (raw(tile, high - 1) == 0) --high;
        place.in_tile = low;
        place.in_frame = starts[tile] / scale + low;
        for (int pixel = low; pixel < high; ++pixel)
            place.weights.push_back(static_cast<float>(raw(tile, pixel) / sums[starts[tile] / scale + pixel]));
    }
    return result;
}

class TiledBackend : public Backend {
public:
    TiledBackend(std::unique_ptr<Backend> graph, const Bundle &bundle)
        : graph_(std::move(graph)),
          bundle_(bundle),
          batch_(std::min({static_cast<std::size_t>(bundle.tiling.batch), graph_->max_batch(),
                           bundle.tiling.rows.size() * bundle.tiling.columns.size()})) {
        const auto &tiling = bundle.tiling;
        rows_ = places(tiling.rows, bundle.height / bundle.map_height, bundle.map_height, tiling.overlap, tiling.halo);
        columns_ =
            places(tiling.columns, bundle.width / bundle.map_width, bundle.map_width, tiling.overlap, tiling.halo);
    }

    Runtime runtime() const override { return graph_->runtime(); }
    // One frame; its tiles fill the batches of the graph.
    std::size_t max_batch() const override { return 1; }
    Backend &graph() override { return *graph_; }

    std::vector<std::size_t> graph_batches(std::size_t) const override {
        const auto count = rows_.size() * columns_.size();
        std::vector<std::size_t> sizes;
        if (count >= batch_) sizes.push_back(batch_);
        if (count % batch_) sizes.push_back(count % batch_);
        return sizes;
    }

    void prepare(std::size_t count) override {
        for (const auto size : graph_batches(count)) graph_->prepare(size);
    }

    void run(const std::uint8_t *images, std::size_t count, const Sink &sink) override {
        const auto frame = static_cast<std::size_t>(bundle_.camera_height) * bundle_.camera_width * bundle_.channels;
        for (std::size_t i = 0; i < count; ++i) run_one(images + i * frame, i, sink);
    }

private:
    void run_one(const std::uint8_t *frame, std::size_t index, const Sink &sink) const {
        const auto tile = static_cast<std::size_t>(bundle_.height) * bundle_.width * bundle_.channels;
        std::vector<float> whole(static_cast<std::size_t>(bundle_.camera_map_height) * bundle_.camera_map_width);
        std::vector<std::uint8_t> tiles(batch_ * tile);
        const auto map_size = static_cast<std::size_t>(bundle_.map_height) * bundle_.map_width;
        bool is_sound = true;
        const auto count = rows_.size() * columns_.size();
        for (std::size_t first = 0; first < count; first += batch_) {
            const auto part = std::min(batch_, count - first);
            for (std::size_t i = 0; i < part; ++i) cut(frame, first + i, tiles.data() + i * tile);
            graph_->run(tiles.data(), part, [&](std::size_t i, float score, const float *map) {
                is_sound = is_sound && bundle_.answer_limits.fault_of(map, map_size, score) == KDX_REASON_NONE;
                add(map, first + i, whole);
            });
        }
        // The score is NaN if a tile's answer has a fault, which stitching may have left out at the
        // tile's edge.
        sink(index, is_sound ? *std::max_element(whole.begin(), whole.end()) : std::nanf(""), whole.data());
    }

    void cut(const std::uint8_t *frame, std::size_t number, std::uint8_t *target) const {
        const auto top = bundle_.tiling.rows[number / columns_.size()];
        const auto left = bundle_.tiling.columns[number % columns_.size()];
        const auto row = static_cast<std::size_t>(bundle_.width) * bundle_.channels;
        for (int y = 0; y < bundle_.height; ++y, target += row)
            std::memcpy(target,
                        frame + (static_cast<std::size_t>(top + y) * bundle_.camera_width + left) * bundle_.channels,
                        row);
    }

    void add(const float *map, std::size_t number, std::vector<float> &whole) const {
        const auto &down = rows_[number / columns_.size()], &across = columns_[number % columns_.size()];
        for (std::size_t y = 0; y < down.weights.size(); ++y) {
            const auto *source = map + (down.in_tile + y) * bundle_.map_width + across.in_tile;
            auto *target = whole.data() + (down.in_frame + y) * bundle_.camera_map_width + across.in_frame;
            for (std::size_t x = 0; x < across.weights.size(); ++x)
                target[x] += source[x] * down.weights[y] * across.weights[x];
        }
    }

    const std::unique_ptr<Backend> graph_;
    const Bundle &bundle_;
    const std::size_t batch_;
    std::vector<Place> rows_, columns_;
};

}  // namespace

std::unique_ptr<Backend> tiled(std::unique_ptr<Backend> graph, const Bundle &bundle) {
    return std::make_unique<TiledBackend>(std::move(graph), bundle);
}

}  // namespace kdx::embed
