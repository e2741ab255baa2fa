// minimal_cpp tile.kdx frame.raw: judges one frame, which has the detector's size and pixel format.
#include <fstream>
#include <iostream>
#include <iterator>
#include <kdx/kdx.hpp>

int main(int argc, char **argv) try {
    if (argc != 3) return 2;
    kdx::Detector detector(argv[1]);
    const auto &takes = detector.describe();
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<char> frame{std::istreambuf_iterator<char>(file), {}};
    if (frame.size() != std::size_t(takes.height) * takes.width * takes.channels)
        throw std::runtime_error("the file does not have the size of a frame");
    const auto *pixels = reinterpret_cast<const std::uint8_t *>(frame.data());
    const auto verdict = detector(kdx::image_of(pixels, takes.height, takes.width, takes.format));
    std::cout << kdx::name_of(verdict.decision) << ' ' << verdict.score << '\n';
    return verdict.is_good() ? 0 : 1;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 2;
}
