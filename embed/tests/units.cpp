// units: functions of the library that compute something, without a bundle and without a
// runtime.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "answers.h"
#include "bundle.h"
#include "check.h"
#include "detector.h"
#include "files.h"
#include "frame.h"
#include "frame_faults.h"
#include "inflate.h"
#include "internals.h"
#include "json_reading.h"
#include "level_map.h"
#include "pair_spec.h"
#include "plain_graph.h"
#include "roi.h"
#include "sha256.h"
#include "support.h"
#include "text.h"

namespace ke = kdx::embed;

namespace {

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
    const std::string_view stream(reinterpret_cast<const char *>(packed), sizeof packed);
    const auto inflated = ke::inflate_zlib(stream, 60);
    CHECK(std::string(inflated.begin(), inflated.end()) == expected);
    CHECK(status_of([&] { ke::inflate_zlib(stream, 59); }) == KDX_ERROR_BUNDLE);
    CHECK(status_of([&] { ke::inflate_zlib(stream, 61); }) == KDX_ERROR_BUNDLE);
    for (std::size_t length = 0; length < stream.size(); ++length)
        CHECK(status_of([&] { ke::inflate_zlib(stream.substr(0, length), 60); }) == KDX_ERROR_BUNDLE);
}

void frames_are_packed_and_checked() {
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

    // Each channel is checked on its own, in the graph's order whatever the frame's is. The last
    // byte of each pixel is dark: blue of RGB, red of BGR.
    std::vector<std::uint8_t> colours(64 * 64 * 3);
    for (std::size_t i = 0; i < colours.size(); ++i)
        colours[i] = static_cast<std::uint8_t>(i % 3 == 2 ? 3 : 60 + i / 3 % 64);
    ke::ChannelLimits lit;
    lit.darkest = 30;
    const auto faults_in = [&](kdx_pixel_format format, std::vector<ke::ChannelLimits> channels) {
        const auto frame = ke::frame_of({colours.data(), 64, 64, format, 0}, 64, 64, 3, false);
        return ke::faults_of(frame, {1, 1, std::move(channels)});
    };
    CHECK(faults_in(KDX_RGB8, {lit, lit, lit}) == KDX_FRAME_DARK &&
          faults_in(KDX_BGR8, {lit, lit, lit}) == KDX_FRAME_DARK);
    CHECK(faults_in(KDX_RGB8, {lit, lit, {}}) == 0 && faults_in(KDX_RGB8, {{}, {}, lit}) == KDX_FRAME_DARK);
    CHECK(faults_in(KDX_BGR8, {{}, lit, lit}) == 0 && faults_in(KDX_BGR8, {lit, {}, {}}) == KDX_FRAME_DARK);

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

// The values are those of tests/kdx/decision/test_good_scores.py.
void p_values_are_conformal() {
    const ke::GoodScores four({1, 2, 2, 5}, 4);
    const double scores[] = {0, 1, 1.5, 2, 3, 5, 6}, expected[] = {1, 1, 0.8, 0.8, 0.4, 0.4, 0.2};
    for (std::size_t i = 0; i < 7; ++i) CHECK(std::fabs(four.p_value(scores[i]) - expected[i]) < 1e-12);
    CHECK(four.images() == 4 && std::isnan(four.p_value(std::nan(""))) && std::isnan(four.p_value(HUGE_VAL)));
    const ke::GoodScores quantiles({1, 5, 9}, 9);  // the ranks 1, 5 and 9
    CHECK(quantiles.p_value(5) == 0.9 && quantiles.p_value(6) == 0.5 && quantiles.p_value(10) == 0.1);
    const ke::GoodScores none, too_many({1, 2, 3}, 2);
    CHECK(none.images() == 0 && std::isnan(none.p_value(1)) && too_many.images() == 0);
}

void answers_are_checked() {
    const auto limits = [](const std::string &maps, const std::string &join, const std::string &score) {
        const auto spec = R"({"maps": [)" + maps + R"(], "join": ")" + join + R"(", "score": ")" + score + "\"}";
        return ke::answer_limits(ke::parse_pair_spec(spec), 100);
    };
    const auto map = [](const char *combine, const char *distance, int taps, double weight) {
        std::string declared;
        for (int i = 0; i < taps; ++i)
            declared += std::string(i ? ", " : "") + R"({"name": "layer1", "distance": ")" + distance + R"(", "weight": )" +
                        std::to_string(weight) + "}";
        return std::string(R"({"combine": ")") + combine + R"(", "taps": [)" + declared + "]}";
    };
    const auto near = [](double value, double expected) { return std::abs(value - expected) < 1e-12; };
    constexpr auto r = ke::kRounding;
    const auto exact = map("product", "half_squared_l2", 3, 1), cosine = map("sum", "cosine", 2, 1.5);
    CHECK(limits(exact, "single", "max").lowest_map == 0 && limits(exact, "single", "sum").lowest_score == 0);
    CHECK(near(limits(cosine, "single", "max").lowest_map, -3 * r) &&
          near(limits(cosine, "single", "max").lowest_score, -3 * r));
    CHECK(near(limits(cosine, "single", "sum").lowest_score, -300 * r));
    CHECK(near(limits(map("product", "cosine", 2, 1), "single", "max").lowest_map, -r * (2 + r)));
    const auto second = limits(exact + ", " + cosine, "score_second", "max");
    CHECK(second.lowest_map == 0 && near(second.lowest_score, -3 * r));
    CHECK(near(limits(exact + ", " + cosine, "score_both", "max").lowest_score, -3 * r * std::pow(2 + r, 3)));
    CHECK(near(limits(exact + ", " + cosine, "confirmed", "sum").lowest_score, -600 * r * std::pow(2 + r, 3)));
    CHECK(limits(exact, "single", "max").score_is_max && !limits(exact, "single", "sum").score_is_max);
    CHECK(limits(exact + ", " + exact, "score_first", "max").score_is_max &&
          limits(exact + ", " + exact, "confirmed", "max").score_is_max);
    CHECK(!second.score_is_max && !limits(exact + ", " + exact, "score_both", "max").score_is_max);
    for (const auto *unknown : {"{}", "[]", R"({"maps": [], "score": "max"})", "nothing"}) {
        const auto any = ke::answer_limits(ke::parse_pair_spec(unknown), 100);
        CHECK(any.lowest_score == -r && !any.score_is_max);
    }
    CHECK(limits(map("sum", "hamming", 1, 1), "single", "sum").lowest_score == -r);
}

void faults_of_answers_are_found() {
    ke::AnswerLimits max_of_distances{0, 0, true}, sum_of_distances{0, 0, false};
    std::vector<float> values(64, 0.5f);
    const auto fault = [&](float score) { return max_of_distances.fault_of(values.data(), values.size(), score); };
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
    values[62] = 3.4e38f;  // finite values whose sum is not finite
    CHECK(fault(3.4e38f) == KDX_REASON_NONE);
    CHECK(fault(0.5f) == KDX_REASON_SCORE_MISMATCH);  // values above the score
    values.assign(64, 0.25f), values[17] = 0.5f;
    CHECK(fault(0.5f) == KDX_REASON_NONE && fault(0.4985f) == KDX_REASON_NONE && fault(0.5015f) == KDX_REASON_NONE);
    for (const float wrong : {0.0f, 0.25f, 0.495f, 0.505f, 1.0f, 3.4e38f})
        CHECK(fault(wrong) == KDX_REASON_SCORE_MISMATCH);
    values.assign(64, 0.0f), values[17] = 1e-40f;  // a runtime may replace it by zero
    CHECK(fault(0) == KDX_REASON_NONE);
    CHECK(sum_of_distances.fault_of(values.data(), values.size(), 12.0f) == KDX_REASON_NONE);
}

// tests/kdx/bundle/test_pair_spec.py reads the same cases.
void declarations_are_read_as_by_python() {
    const auto cases = ke::parse_json(ke::read_file(KDX_TEST_FILES "/pair_specs.json"));
    CHECK(!cases.empty());
    for (const auto &each : cases) {
        const auto spec = ke::parse_pair_spec(each["pair_spec"].dump());
        const auto rule = spec.rule_of_returned_map();
        const auto *name = !rule ? "none" : *rule == ke::ScoreRule::max ? "max" : "sum";
        const auto limits = ke::answer_limits(spec, 100);
        const bool is_as_expected = name == each["map_rule"] && limits.lowest_map == each["lowest_map"] &&
                                    limits.score_is_max == each["score_is_max"];
        if (!is_as_expected) std::fprintf(stderr, "%s\n", each.dump().c_str());
        CHECK(is_as_expected);
    }
}

void graphs_that_are_not_plain_are_refused() {
    std::string message;
    const auto check = [&](const std::string &graph) {
        return status_of([&] { ke::require_plain_graph(graph, "model.onnx", "tile.kdx"); }, &message);
    };
    // Fields of onnx.proto by hand: graph (7), node (1), domain (7) or attribute (5), tensor (5),
    // external data (13).
    const auto field = [](int number, const std::string &content) {
        return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(content.size())} + content;
    };
    const auto plain = field(7, field(1, field(7, "ai.onnx")));
    CHECK(check(plain) == KDX_OK);
    CHECK(check(plain + field(7, field(1, field(7, "com.microsoft")))) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "'model.onnx' of 'tile.kdx'") && contains(message, "the domain 'com.microsoft'"));
    CHECK(check(field(7, field(5, field(13, "location")))) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "external data"));
    CHECK(check(field(7, field(1, field(5, field(5, "\x70\x01"))))) == KDX_ERROR_BUNDLE);
    CHECK(check("") == KDX_ERROR_BUNDLE);
    CHECK(check(plain.substr(0, plain.size() - 1)) == KDX_ERROR_BUNDLE);
    CHECK(contains(message, "not an ONNX graph"));
}

// The cases of tests/kdx/decision/test_roi.py.
void a_pixel_counts_if_all_that_it_covers_is_included() {
    ke::Bundle bundle;
    bundle.camera_height = bundle.camera_width = 8;
    bundle.camera_map_height = bundle.camera_map_width = 4;
    bundle.score_rule = ke::ScoreRule::max;
    const auto excluded = [&](const std::vector<std::size_t> &pixels) {
        std::vector<std::uint8_t> mask(64, 255);
        for (const auto pixel : pixels) mask[pixel] = 0;
        const ke::Roi roi(bundle, mask.data(), 8);
        std::vector<int> pixels_left_out;
        for (int i = 0; i < bundle.camera_map_height * bundle.camera_map_width; ++i)
            if (!roi.counts(static_cast<std::size_t>(i))) pixels_left_out.push_back(i);
        return pixels_left_out;
    };
    CHECK((excluded({1, 5 * 8 + 5}) == std::vector<int>{0, 10}));
    bundle.field_of_view = 0.5;
    CHECK(excluded({0, 12, 51}).empty());
    CHECK((excluded({2 * 8 + 2, 5 * 8 + 4}) == std::vector<int>{0, 14}));
    bundle.field_of_view = 1;
    bundle.crop = {4, 2, 4, 4};  // one pixel each
    CHECK(excluded({0, 8 + 4, 3 * 8 + 3, 6 * 8 + 4}).empty());
    CHECK((excluded({2 * 8 + 4, 5 * 8 + 7}) == std::vector<int>{0, 15}));
    bundle.crop = {};
    bundle.camera_map_height = bundle.camera_map_width = 3;  // 8 / 3 pixels each: neighbours share one
    CHECK((excluded({2 * 8}) == std::vector<int>{0, 3}));

    std::vector<std::uint8_t> mask(64, 255);
    mask[0] = 0;
    const std::vector<float> map = {9, 1, 2, 3, 4, 3, 2, 1, 0.5f};
    CHECK(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), 9) == 4);
    CHECK(std::isinf(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), INFINITY)));
    CHECK(std::isnan(ke::Roi(bundle, mask.data(), 8).score_of(std::vector<float>(9, NAN).data(), 1)));
    bundle.score_rule = ke::ScoreRule::sum;
    CHECK(ke::Roi(bundle, mask.data(), 8).score_of(map.data(), 25.5f) == 16.5f);
    bundle.score_rule.reset();
    CHECK(status_of([&] { ke::Roi(bundle, mask.data(), 8); }) == KDX_ERROR_ARGUMENT);
}

// The cases of tests/kdx/decision/test_level_map.py.
void maps_are_divided_by_their_level() {
    const std::vector<float> map = {1, 6, 3, 4}, level = {2, 4, 1, 8};
    std::vector<float> normalised;
    const ke::Level of_max(level, ke::ScoreRule::max), of_sum(level, ke::ScoreRule::sum);
    CHECK(of_max.apply(map.data(), 9, normalised) == 3);
    CHECK((normalised == std::vector<float>{0.5f, 1.5f, 3, 0.5f}));
    CHECK(of_sum.apply(map.data(), 9, normalised) == 5.5f);
    CHECK(std::isinf(of_max.apply(map.data(), INFINITY, normalised)));
    CHECK(std::isnan(of_max.apply(std::vector<float>{1, NAN, 1, 1}.data(), 1, normalised)));
}

void messages_are_shown_as_text() {
    const auto shown = [](const std::string &text, std::size_t room = 64) {
        std::vector<char> target(room, 'x');
        ke::copy_text(text.c_str(), target.data(), room);
        return std::string(target.data());
    };
    const std::string umlauts =
        "Pr\xc3\xbc"
        "fung \xe6\xa4\x9c\xe6\x9f\xbb \xf0\x9f\x94\x8d\n";
    CHECK(shown(umlauts) == umlauts);
    CHECK(shown("\x1b[31mred\x07 \xc2\x9b\x7f") == "?[31mred? ??");
    // Invalid UTF-8: a single byte, an incomplete character, an overlong encoding, half a surrogate
    // pair, and a value above the last character.
    CHECK(shown("\xff|\xe6\xa4|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80") == "?|??|??|???|????");
    CHECK(shown("abc", 3) == "ab");
    // A text that is cut says so, where there is room for it.
    CHECK(shown("ab\xc3\xbc", 4) == "\xe2\x80\xa6");
    CHECK(shown("a\xc3\xbc" "cdefg", 7) == "a\xc3\xbc\xe2\x80\xa6" && shown("abcdef", 7) == "abcdef");
    CHECK(shown("ab\xc3\xbc", 5) == "ab\xc3\xbc");
    CHECK(shown("", 1).empty());
}

// The fix is the last that a message loses.
void long_messages_keep_their_fix() {
    const ke::Failure failure(KDX_ERROR_BUNDLE, "it was altered",
                              {"sha256 " + std::string(64, 'a'), std::string(2000, 'b'), "copy it again"});
    CHECK(failure.within(5000) == failure.what());
    const auto longer = failure.within(1023), shorter = failure.within(120), shortest = failure.within(60);
    CHECK(longer.size() == 1023 && shorter.size() <= 120 && shortest.size() <= 60);
    CHECK(contains(longer, "b\xe2\x80\xa6\n  fix: copy it again") && contains(longer, std::string(64, 'a')));
    CHECK(contains(shorter, "it was altered") && !contains(shorter, "received"));
    for (const auto &text : {shorter, shortest}) CHECK(contains(text, "\n  fix: copy it again"));
    CHECK(ke::shortened("a\xc3\xbc" "cdef", 2) == "a\xe2\x80\xa6" && ke::shortened("abc", 1).empty());
}

}  // namespace

int units() {
    sha256_agrees_with_the_standard();
    streams_are_inflated();
    frames_are_packed_and_checked();
    scores_are_decided();
    p_values_are_conformal();
    answers_are_checked();
    faults_of_answers_are_found();
    declarations_are_read_as_by_python();
    graphs_that_are_not_plain_are_refused();
    a_pixel_counts_if_all_that_it_covers_is_included();
    maps_are_divided_by_their_level();
    messages_are_shown_as_text();
    long_messages_keep_their_fix();
    return status();
}
