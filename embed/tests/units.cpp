// kdx_units BUNDLE: the parts of the library that no call shows by itself.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "blob_cache.h"
#include "bundle.h"
#include "check.h"
#include "detector.h"
#include "engine_record.h"
#include "error.h"
#include "frame.h"
#include "golden.h"
#include "inflate.h"
#include "plain_graph.h"
#include "position.h"
#include "roi.h"
#include "sha256.h"

namespace ke = kdx::embed;
namespace fs = std::filesystem;

namespace {

template <class Action>
kdx_status status_of(Action &&action, std::string *said = nullptr) {
    try {
        action();
        return KDX_OK;
    } catch (const ke::Failure &failure) {
        if (said) *said = failure.what();
        return failure.status;
    }
}

void sha256_agrees_with_the_standard() {
    const auto hash = [](const std::string &text) { return ke::hexadecimal(ke::sha256_of(text)); };
    // FIPS 180-4 examples (NIST, SHA256.pdf), and a million a's.
    CHECK(hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(hash(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    // In pieces of every length, as files are read.
    const std::string text(300, 'x');
    for (std::size_t piece = 1; piece < 130; ++piece) {
        ke::Sha256 sha;
        for (std::size_t at = 0; at < text.size(); at += piece)
            sha.update(text.data() + at, std::min(piece, text.size() - at));
        CHECK(ke::hexadecimal(sha.digest()) == hash(text));
    }
}

void streams_are_inflated() {
    // zlib.compress(b"kdx" * 20, 9)
    const unsigned char packed[] = {0x78, 0xda, 0xcb, 0x4e, 0xa9, 0xc8, 0x26, 0x17, 0x01, 0x00, 0x0a, 0x93, 0x19, 0x8d};
    std::string expected;
    for (int i = 0; i < 20; ++i) expected += "kdx";
    std::string said;
    std::vector<std::uint8_t> found;
    const std::string_view stream(reinterpret_cast<const char *>(packed), sizeof packed);
    const auto status = status_of([&] { found = ke::inflate_zlib(stream, 60); }, &said);
    CHECK(status == KDX_OK || (std::fprintf(stderr, "%s\n", said.c_str()), false));
    CHECK(std::string(found.begin(), found.end()) == expected);
    CHECK(status_of([&] { ke::inflate_zlib(stream, 59); }) == KDX_ERROR_BUNDLE);
    CHECK(status_of([&] { ke::inflate_zlib(stream, 61); }) == KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length < stream.size(); ++length)
        CHECK(status_of([&] { ke::inflate_zlib(stream.substr(0, length), 60); }) == KDX_ERROR_BUNDLE);
}

void frames_are_packed_and_looked_at() {
    // Two rows of two pixels, padded to 8 bytes, in BGR.
    const std::uint8_t padded[16] = {1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12, 99, 99};
    const auto frame = ke::frame_of({padded, 2, 2, KDX_BGR8, 8}, 2, 2, 3, false);
    std::uint8_t packed[12];
    ke::pack(frame, packed);
    const std::uint8_t expected[12] = {3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10};
    CHECK(std::memcmp(packed, expected, 12) == 0);
    CHECK(!frame.is_packed());
    CHECK(ke::frame_of({padded, 2, 2, KDX_BGR8, 0}, 2, 2, 3, true).is_packed());

    const auto faults = [](std::uint8_t value, ke::FrameLimits limits = {}) {
        const std::vector<std::uint8_t> pixels(300 * 300, value);
        return ke::faults_of(ke::frame_of({pixels.data(), 300, 300, KDX_MONO8, 0}, 300, 300, 1, false), limits);
    };
    CHECK(faults(0) == (KDX_FRAME_BLACK | KDX_FRAME_UNIFORM));
    CHECK(faults(255) == (KDX_FRAME_WHITE | KDX_FRAME_UNIFORM));
    CHECK(faults(128) == KDX_FRAME_UNIFORM);
    CHECK(faults(0, {1.0, 0.0}) == KDX_FRAME_UNIFORM);

    // Each channel for itself, in the graph's order whatever the frame's is: the last byte of a pixel is dead, blue of RGB and red of BGR.
    std::vector<std::uint8_t> colours(64 * 64 * 3);
    for (std::size_t i = 0; i < colours.size(); ++i) colours[i] = static_cast<std::uint8_t>(i % 3 == 2 ? 3 : 60 + i / 3 % 64);
    ke::ChannelLimits lit;
    lit.darkest = 30;
    const auto look = [&](kdx_pixel_format format, std::vector<ke::ChannelLimits> channels) {
        return ke::faults_of(ke::frame_of({colours.data(), 64, 64, format, 0}, 64, 64, 3, false), {1, 1, std::move(channels)});
    };
    CHECK(look(KDX_RGB8, {lit, lit, lit}) == KDX_FRAME_DARK && look(KDX_BGR8, {lit, lit, lit}) == KDX_FRAME_DARK);
    CHECK(look(KDX_RGB8, {lit, lit, {}}) == 0 && look(KDX_RGB8, {{}, {}, lit}) == KDX_FRAME_DARK);
    CHECK(look(KDX_BGR8, {{}, lit, lit}) == 0 && look(KDX_BGR8, {lit, {}, {}}) == KDX_FRAME_DARK);

    const auto refused = [&](kdx_image image) { return status_of([&] { ke::frame_of(image, 2, 2, 3, false); }); };
    CHECK(refused({nullptr, 2, 2, KDX_RGB8, 0}) == KDX_ERROR_ARGUMENT);
    CHECK(refused({padded, 2, 3, KDX_RGB8, 0}) == KDX_ERROR_IMAGE);
    CHECK(refused({padded, 2, 2, KDX_MONO8, 0}) == KDX_ERROR_IMAGE);
    CHECK(refused({padded, 2, 2, 77, 0}) == KDX_ERROR_IMAGE);
    CHECK(refused({padded, 2, 2, KDX_RGB8, 5}) == KDX_ERROR_IMAGE);
    CHECK(refused({padded, 2, 2, KDX_RGB8, -6}) == KDX_ERROR_IMAGE);
}

void scores_are_decided() {
    const ke::Threshold threshold{1.0, 2.0, ke::kNone}, banded{1.0, 2.0, 0.5}, none;
    CHECK(ke::decide(0.5, banded, 0) == KDX_GOOD);
    CHECK(ke::decide(0.75, banded, 0) == KDX_REVIEW);
    CHECK(ke::decide(1.0, banded, 0) == KDX_REVIEW);
    CHECK(ke::decide(1.25, banded, 0) == KDX_DEFECTIVE);
    CHECK(ke::decide(0.75, banded, KDX_FRAME_BLACK) == KDX_UNDECIDED);
    CHECK(ke::decide(1.0, threshold, 0) == KDX_GOOD);
    CHECK(ke::decide(std::nextafter(1.0, 2.0), threshold, 0) == KDX_DEFECTIVE);
    CHECK(ke::decide(0.5, threshold, KDX_FRAME_BLACK) == KDX_UNDECIDED);
    CHECK(ke::decide(1.5, threshold, KDX_FRAME_BLACK) == KDX_DEFECTIVE);
    CHECK(ke::decide(0.5, none, 0) == KDX_UNDECIDED);
    CHECK(ke::decide(std::nan(""), threshold, 0) == KDX_UNDECIDED);
    CHECK(ke::decide(HUGE_VAL, threshold, 0) == KDX_UNDECIDED);
}

void answers_are_checked() {
    const auto limits = [](const std::string &maps, const std::string &join, const std::string &score) {
        return ke::answer_limits("{\"maps\": [" + maps + "], \"join\": \"" + join + "\", \"score\": \"" + score + "\"}", 100);
    };
    const auto map = [](const char *combine, const char *distance, int taps, double weight) {
        std::string found;
        for (int i = 0; i < taps; ++i)
            found += std::string(i ? ", " : "") + "{\"distance\": \"" + distance + "\", \"weight\": " + std::to_string(weight) + "}";
        return std::string("{\"combine\": \"") + combine + "\", \"taps\": [" + found + "]}";
    };
    const auto near = [](double found, double expected) { return std::abs(found - expected) < 1e-12; };
    constexpr auto r = ke::kRounding;
    const auto exact = map("product", "half_squared_l2", 3, 1), cosine = map("sum", "cosine", 2, 1.5);
    CHECK(limits(exact, "single", "max").lowest_map == 0 && limits(exact, "single", "sum").lowest_score == 0);
    CHECK(near(limits(cosine, "single", "max").lowest_map, -3 * r) && near(limits(cosine, "single", "max").lowest_score, -3 * r));
    CHECK(near(limits(cosine, "single", "sum").lowest_score, -300 * r));
    CHECK(near(limits(map("product", "cosine", 2, 1), "single", "max").lowest_map, -r * (2 + r)));
    const auto second = limits(exact + ", " + cosine, "score_second", "max");
    CHECK(second.lowest_map == 0 && near(second.lowest_score, -3 * r));
    CHECK(near(limits(exact + ", " + cosine, "score_both", "max").lowest_score, -3 * r * std::pow(2 + r, 3)));
    CHECK(near(limits(exact + ", " + cosine, "confirmed", "sum").lowest_score, -600 * r * std::pow(2 + r, 3)));
    CHECK(limits(exact, "single", "max").score_is_max && !limits(exact, "single", "sum").score_is_max);
    CHECK(limits(exact + ", " + exact, "score_first", "max").score_is_max && limits(exact + ", " + exact, "confirmed", "max").score_is_max);
    CHECK(!second.score_is_max && !limits(exact + ", " + exact, "score_both", "max").score_is_max);
    CHECK(!ke::answer_limits("{}", 100).score_is_max);
    for (const auto *unknown : {"{}", "[]", "{\"maps\": [], \"score\": \"max\"}", "nothing"})
        CHECK(ke::answer_limits(unknown, 100).lowest_score == -r);
    CHECK(limits(map("sum", "hamming", 1, 1), "single", "sum").lowest_score == -r);

    std::vector<float> values(64, 0.5f);
    const auto fault = [&](float score) { return limits(exact, "single", "max").fault_of(values.data(), values.size(), score); };
    CHECK(fault(0.5f) == KDX_REASON_NONE && fault(0) == KDX_REASON_SCORE_MISMATCH);
    CHECK(fault(-1e-6f) == KDX_REASON_BELOW_RANGE && fault(-3.4e38f) == KDX_REASON_BELOW_RANGE);
    CHECK(fault(std::nanf("")) == KDX_REASON_NOT_FINITE && fault(HUGE_VALF) == KDX_REASON_NOT_FINITE);
    for (const float wrong : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
        values[63] = wrong;
        CHECK(fault(0.5f) == KDX_REASON_NOT_FINITE);
    }
    values[63] = -0.5f;
    CHECK(fault(0.5f) == KDX_REASON_BELOW_RANGE);
    values[63] = 3.4e38f;
    values[62] = 3.4e38f;  // their sum is not finite, and they are
    CHECK(fault(3.4e38f) == KDX_REASON_NONE);
    CHECK(fault(0.5f) == KDX_REASON_SCORE_MISMATCH);  // values above the score
    values.assign(64, 0.25f), values[17] = 0.5f;
    CHECK(fault(0.5f) == KDX_REASON_NONE && fault(0.4985f) == KDX_REASON_NONE && fault(0.5015f) == KDX_REASON_NONE);
    for (const float wrong : {0.0f, 0.25f, 0.495f, 0.505f, 1.0f, 3.4e38f}) CHECK(fault(wrong) == KDX_REASON_SCORE_MISMATCH);
    values.assign(64, 0.0f), values[17] = 1e-40f;  // a runtime may replace it by zero
    CHECK(fault(0) == KDX_REASON_NONE);
    const auto sum = [&](float score) { return limits(exact, "single", "sum").fault_of(values.data(), values.size(), score); };
    CHECK(sum(12.0f) == KDX_REASON_NONE);
}

std::string replaced(std::string text, const std::string &from, const std::string &to) {
    const auto at = text.find(from);
    CHECK(at != std::string::npos);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

void manifests_are_checked(const fs::path &path) {
    const auto text = ke::read_file(path / "bundle.json");
    const auto parsed = [&](const std::string &changed, std::string *said = nullptr) {
        return status_of([&] { ke::parse_manifest(changed, path); }, said);
    };
    CHECK(parsed(text) == KDX_OK);
    std::string said;
    CHECK(parsed(replaced(text, "\"schema\": 2", "\"schema\": 1")) == KDX_OK);
    CHECK(parsed(replaced(text, "\"schema\": 2", "\"schema\": 3"), &said) == KDX_ERROR_BUNDLE);
    CHECK(said.find("newer kdx") != std::string::npos);
    for (const auto *outside : {"../model.onnx", "/etc/passwd", "a/../../b", "C:\\\\model.onnx", ""}) {
        CHECK(parsed(replaced(text, "\"model.onnx\":", "\"" + std::string(outside) + "\":"), &said) == KDX_ERROR_BUNDLE);
        CHECK(said.find("outside the bundle") != std::string::npos);
    }
    CHECK(parsed(replaced(text, "\"onnxruntime\": {", "\"onnxruntime\": 1, \"other\": {")) == KDX_ERROR_BUNDLE);
    CHECK(parsed(replaced(text, "\"height\": ", "\"height\": -")) == KDX_ERROR_BUNDLE);
    CHECK(parsed(replaced(text, "\"height\": ", "\"height\": 99999999")) == KDX_ERROR_BUNDLE);
    CHECK(parsed(replaced(text, "\"model.onnx\":", "\"other.onnx\":"), &said) == KDX_ERROR_BUNDLE);
    CHECK(said.find("does not list 'model.onnx'") != std::string::npos);
    for (std::size_t length = 0; length + 2 < text.size(); length += 97)
        CHECK(parsed(text.substr(0, length)) == KDX_ERROR_BUNDLE);
    for (const auto *nothing : {"null", "[]", "{}", "1", "\"\"", "{\"schema\": \"1\"}", "{\"schema\": 1}"})
        CHECK(parsed(nothing) == KDX_ERROR_BUNDLE);
}

void altered_files_are_refused(const fs::path &path) {
    const auto folder = fs::temp_directory_path() / ("kdx-units-" + std::to_string(std::hash<std::thread::id>{}(std::this_thread::get_id())));
    fs::remove_all(folder);
    const auto refused_after = [&](auto &&change) {
        fs::copy(path, folder, fs::copy_options::recursive);
        change();
        std::string said;
        const auto status = status_of([&] { ke::open_bundle(folder).check_files(); }, &said);
        fs::remove_all(folder);
        CHECK(status == KDX_ERROR_BUNDLE);
        return said;
    };
    const auto append = [&](const char *name) { std::ofstream(folder / name, std::ios::app) << ' '; };
    CHECK(refused_after([&] { append("model.onnx"); }).find("'model.onnx' was altered") != std::string::npos);
    CHECK(refused_after([&] { append("golden/anomaly_map.npy"); }).find("was altered") != std::string::npos);
    CHECK(refused_after([&] { fs::remove(folder / "model.onnx"); }).find("lacks") != std::string::npos);
    CHECK(refused_after([&] {
              fs::remove(folder / "model.onnx");
              fs::create_symlink("/etc/passwd", folder / "model.onnx");
          }).find("outside the bundle") != std::string::npos);
    fs::copy(path, folder, fs::copy_options::recursive);
    fs::remove(folder / "model.onnx");
    fs::create_symlink(fs::canonical(path / "model.onnx"), folder / "model.onnx");  // as in a model hub's cache
    CHECK(status_of([&] { ke::open_bundle(folder); }) == KDX_OK);
    fs::remove_all(folder);
    CHECK(refused_after([&] { fs::remove(folder / "bundle.json"); }).find("is missing") != std::string::npos);
    CHECK(status_of([&] { ke::open_bundle("/no/such/bundle"); }) == KDX_ERROR_BUNDLE);
}

void graphs_that_are_not_plain_are_refused(const fs::path &path) {
    const auto plain = ke::read_file(path / "model.onnx");
    std::string said;
    const auto refused = [&](const std::string &graph) {
        return status_of([&] { ke::require_plain_graph(graph, "model.onnx"); }, &said);
    };
    CHECK(refused(plain) == KDX_OK);
    // Fields of onnx.proto by hand: graph (7), node (1), domain (7) or attribute (5), tensor (5), external data (13).
    const auto field = [](int number, const std::string &content) {
        return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(content.size())} + content;
    };
    CHECK(refused(plain + field(7, field(1, field(7, "com.microsoft")))) == KDX_ERROR_BUNDLE);
    CHECK(said.find("the domain 'com.microsoft'") != std::string::npos);
    CHECK(refused(field(7, field(1, field(7, "ai.onnx")))) == KDX_OK);
    CHECK(refused(field(7, field(5, field(13, "location")))) == KDX_ERROR_BUNDLE);
    CHECK(said.find("external data") != std::string::npos);
    CHECK(refused(field(7, field(1, field(5, field(5, "\x70\x01"))))) == KDX_ERROR_BUNDLE);
    CHECK(refused("") == KDX_ERROR_BUNDLE);
    CHECK(refused(plain.substr(0, plain.size() - 1)) == KDX_ERROR_BUNDLE);
    CHECK(said.find("not an ONNX graph") != std::string::npos);
}

void golden_images_are_read(const fs::path &path) {
    const auto bundle = ke::open_bundle(path);
    const auto golden = ke::read_golden(bundle);
    CHECK(golden.count == bundle.golden.size());
    CHECK(golden.images.size() == golden.count * bundle.height * bundle.width * bundle.channels);
    const auto file = ke::read_file(path / "golden" / bundle.golden.front());
    std::vector<std::uint8_t> pixels;
    CHECK(status_of([&] { ke::decode_png(file, bundle.height + 1, bundle.width, bundle.channels, pixels); }) ==
          KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length < file.size() - 12; length += 211)
        CHECK(status_of([&] { ke::decode_png(file.substr(0, length), bundle.height, bundle.width, bundle.channels, pixels); }) ==
              KDX_ERROR_BUNDLE);
    const auto scores = ke::read_file(path / "golden/anomaly_score.npy");
    CHECK(status_of([&] { ke::decode_npy(scores, golden.count + 1); }) == KDX_ERROR_BUNDLE);
    CHECK(status_of([&] { ke::decode_npy(replaced(scores, "<f4", "<f8"), golden.count); }) == KDX_ERROR_BUNDLE);
}

// The cases of tests/kdx/decision/test_roi.py.
void pixels_count_where_all_they_cover_is_included() {
    ke::Bundle bundle;
    bundle.camera_height = bundle.camera_width = 8, bundle.camera_map_height = bundle.camera_map_width = 4, bundle.score_rule = "max";
    const auto excluded = [&](const std::vector<std::size_t> &pixels) {
        std::vector<std::uint8_t> mask(64, 255);
        for (const auto pixel : pixels) mask[pixel] = 0;
        const ke::Roi roi(bundle, mask.data(), 8);
        std::vector<int> found;
        for (int i = 0; i < bundle.camera_map_height * bundle.camera_map_width; ++i)
            if (!roi.counts(static_cast<std::size_t>(i))) found.push_back(i);
        return found;
    };
    CHECK((excluded({1, 5 * 8 + 5}) == std::vector<int>{0, 10}));
    bundle.field_of_view = 0.5;
    CHECK(excluded({0, 12, 51}).empty());
    CHECK((excluded({2 * 8 + 2, 5 * 8 + 4}) == std::vector<int>{0, 14}));
    bundle.field_of_view = 1;
    bundle.camera_map_height = bundle.camera_map_width = 3;  // 8 / 3 pixels each: neighbours share one
    CHECK((excluded({2 * 8}) == std::vector<int>{0, 3}));

    std::vector<std::uint8_t> mask(64, 255);
    mask[0] = 0;
    const std::vector<float> map = {9, 1, 2, 3, 4, 3, 2, 1, 0.5f};
    CHECK(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), 9) == 4);
    CHECK(std::isinf(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), INFINITY)));
    CHECK(std::isnan(ke::Roi(bundle, mask.data(), 8).score_of(std::vector<float>(9, NAN).data(), 1)));
    bundle.score_rule = "sum";
    CHECK(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), 25.5f) == 16.5f);
    bundle.score_rule = "";
    CHECK(status_of([&] { ke::Roi(bundle, mask.data(), 8); }) == KDX_ERROR_ARGUMENT);
}

// The cases of tests/kdx/decision/test_level_map.py.
void maps_are_divided_by_their_level() {
    const std::vector<float> map = {1, 6, 3, 4}, level = {2, 4, 1, 8};
    std::vector<float> normalised;
    CHECK(ke::Level(level, false).apply(map.data(), 9, normalised) == 3);
    CHECK((normalised == std::vector<float>{0.5f, 1.5f, 3, 0.5f}));
    CHECK(ke::Level(level, true).apply(map.data(), 9, normalised) == 5.5f);
    CHECK(std::isinf(ke::Level(level, false).apply(map.data(), INFINITY, normalised)));
    CHECK(std::isnan(ke::Level(level, false).apply(std::vector<float>{1, NAN, 1, 1}.data(), 1, normalised)));
}

void caches_keep_only_what_is_whole() {
    const auto folder = fs::temp_directory_path() / "kdx-units-cache";
    fs::remove_all(folder);
    const ke::BlobCache cache(folder), none{fs::path()};
    CHECK(!cache.read("a"));
    cache.write("a", "blob");
    CHECK(cache.read("a") == "blob");
    CHECK(!cache.read("b"));
    for (const auto &file : fs::directory_iterator(folder)) std::ofstream(file.path(), std::ios::app) << 'x';
    CHECK(!cache.read("a"));
    none.write("a", "blob");
    CHECK(!none.read("a"));
    ke::BlobCache("/proc/no/such").write("a", "blob");  // costs time, never an answer
    fs::remove_all(folder);
}

void engines_are_held_against_the_machine(const fs::path &path) {
    const auto bundle = ke::open_bundle(path);
    const auto &graph = bundle.hash_of("model.onnx");
    const std::string text =
        R"({"schema": 1, "fingerprint": {"flavour": "tensorrt", "tensorrt": "10.16.1.11", "compute_capability": "8.6",)"
        R"( "gpu": "A card", "driver": null, "system": "Linux x86_64"}, "precision": "fp32", "batches": [1, 8],)"
        R"( "onnx_sha256": ")" + graph + R"(", "plan_sha256": "0"})";
    const ke::Machine here{"10.16.1", "8.6", "A card", "Linux x86_64"};
    const auto record = ke::parse_engine_record(text, path);
    CHECK(record.batches == (std::vector<int>{1, 8}));
    CHECK(ke::mismatch(record, here, graph).empty());
    const auto differs = [&](ke::Machine other, const char *said) {
        return ke::mismatch(record, other, graph).find(said) != std::string::npos;
    };
    CHECK(differs({"10.17.0", "8.6", "A card", "Linux x86_64"}, "TensorRT 10.16.1.11, here is 10.17.0"));
    CHECK(differs({"10.16.1", "8.9", "A card", "Linux x86_64"}, "compute capability"));
    CHECK(differs({"10.16.1", "8.6", "Another card", "Linux x86_64"}, "built on A card"));
    CHECK(differs({"10.16.1", "8.6", "A card", "Linux aarch64"}, "system"));
    CHECK(ke::mismatch(record, here, std::string(64, '0')).find("another graph") != std::string::npos);
    CHECK(status_of([&] { ke::read_plan(record); }) == KDX_ERROR_BACKEND);
    for (const auto &changed : {replaced(text, "[1, 8]", "[]"), replaced(text, "[1, 8]", "[8, 1]"),
                                replaced(text, "[1, 8]", "[0]"), replaced(text, "\"schema\": 1", "\"schema\": 2"),
                                replaced(text, "\"flavour\"", "\"taste\""), std::string("{")})
        CHECK(status_of([&] { ke::parse_engine_record(changed, path); }) == KDX_ERROR_BACKEND);
    std::string said;
    CHECK(status_of([&] { ke::find_engine(bundle, "fp32", here); }, &said) == KDX_ERROR_BACKEND);
    CHECK(said.find("no engine") != std::string::npos && said.find("kdx build-engine") != std::string::npos);
    // One that is still being built, or that a kill left, is none: its folder's name begins with a dot.
    auto other = bundle;
    other.path = fs::temp_directory_path() / "kdx-units-engines";
    const auto engines = other.path / "engines";
    fs::create_directories(engines / ".fp32.part");
    std::ofstream(engines / ".fp32.part" / "engine.json") << text;
    CHECK(status_of([&] { ke::find_engine(other, "fp32", here); }, &said) == KDX_ERROR_BACKEND);
    CHECK(said.find("no engine") != std::string::npos);
    fs::rename(engines / ".fp32.part", engines / "fp32");
    CHECK(ke::find_engine(other, "fp32", here).plan == engines / "fp32" / "model.plan");
    fs::remove_all(other.path);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) return std::fprintf(stderr, "kdx_units BUNDLE\n"), 2;
    sha256_agrees_with_the_standard();
    streams_are_inflated();
    frames_are_packed_and_looked_at();
    scores_are_decided();
    answers_are_checked();
    manifests_are_checked(argv[1]);
    altered_files_are_refused(argv[1]);
    graphs_that_are_not_plain_are_refused(argv[1]);
    golden_images_are_read(argv[1]);
    pixels_count_where_all_they_cover_is_included();
    maps_are_divided_by_their_level();
    engines_are_held_against_the_machine(argv[1]);
    caches_keep_only_what_is_whole();
    return failures ? 1 : 0;
}
