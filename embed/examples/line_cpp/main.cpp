// line_cpp BUNDLE FRAMES [options]: a complete inspection line. A capture thread reads the .ppm and
// .pgm files of the folder FRAMES in a loop at a frame rate and puts them into a bounded queue. An
// inference thread judges them. A watchdog answers for parts whose verdict is late.
//
//   --fps N          frames per second that the camera delivers (20)
//   --frames N       stop after N frames (100); 0: never
//   --queue N        number of frames that may wait (4)
//   --timeout-ms N   latest time of a verdict after the capture, in milliseconds (200). A later verdict
//                    is too late for the reject gate: the part is written as "undecided"
//   --threads N, --backend NAME, --precision NAME, --cache DIR: as in kdx_options
//
// Drop policy: if frames arrive faster than they are judged, the OLDEST waiting frame is dropped.
// Its part passes the reject gate first, while the newest frame can still be judged in time. Every
// dropped or late part is written as "undecided", which the PLC must treat as not good.
//
// The program writes one JSON line per part, for example
//   {"part": 17, "verdict": "good", "score": 0.1, "frame_faults": 0, "reason": 0, "ms": 9.1,
//    "waited_ms": 0.2}
// and a summary to standard error. Exit status 0: every frame was judged in time; 1: some frames
// were not; 2: the line could not start.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <kdx/kdx.hpp>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

std::atomic<bool> stopping{false};
void stop(int) { stopping = true; }

struct Settings {
    std::string bundle, frames;
    double fps = 20, timeout_ms = 200;
    long count = 100, queue = 4;
    kdx::Options options;
};

struct Picture {
    int height = 0, width = 0, channels = 0;
    std::vector<std::uint8_t> pixels;

    kdx_image image() const {
        return kdx::image_of(pixels.data(), height, width, channels == 1 ? KDX_MONO8 : KDX_RGB8);
    }
};

struct Frame {
    long part;
    Clock::time_point captured;
    const Picture *picture;  // with a real camera: the buffer of its driver
};

// Reads a binary PGM or PPM file of 8 bits, a format that camera software can write.
Picture read_picture(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    Picture picture;
    int largest = 0;
    file >> kind >> picture.width >> picture.height >> largest;
    file.get();
    picture.channels = kind == "P5" ? 1 : kind == "P6" ? 3 : 0;
    const bool is_known = file && picture.channels && largest == 255 && picture.width > 0 && picture.height > 0;
    if (!is_known) throw std::runtime_error("'" + path.string() + "' is not an 8-bit PGM or PPM file without comments");
    picture.pixels.resize(static_cast<std::size_t>(picture.width) * picture.height * picture.channels);
    file.read(reinterpret_cast<char *>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
    if (!file) throw std::runtime_error("'" + path.string() + "' ends early");
    return picture;
}

std::vector<Picture> read_pictures(const std::string &folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto &entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".ppm" || entry.path().extension() == ".pgm") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    std::vector<Picture> pictures;
    for (const auto &path : paths) pictures.push_back(read_picture(path));
    if (pictures.empty()) throw std::runtime_error("there are no .ppm or .pgm files in '" + folder + "'");
    return pictures;
}

// A bounded queue. The newest frame always gets a place in it.
class Queue {
public:
    explicit Queue(std::size_t room) : room_(room) {}

    // Adds a frame. Returns the frame that was dropped for it, if any.
    std::optional<Frame> push(Frame frame) {
        std::optional<Frame> dropped;
        {
            const std::lock_guard lock(mutex_);
            if (frames_.size() == room_) {
                dropped = frames_.front();
                frames_.pop_front();
            }
            frames_.push_back(frame);
        }
        ready_.notify_one();
        return dropped;
    }

    // Waits for a frame. Returns nothing when the queue is closed and empty.
    std::optional<Frame> pop() {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [&] { return closed_ || !frames_.empty(); });
        if (frames_.empty()) return std::nullopt;
        const auto frame = frames_.front();
        frames_.pop_front();
        return frame;
    }

    void close() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        ready_.notify_all();
    }

private:
    const std::size_t room_;
    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<Frame> frames_;
    bool closed_ = false;
};

// The receiver of verdicts: here standard output, on a real line the PLC. It answers for each part
// exactly once.
class Gate {
public:
    explicit Gate(double timeout_ms) : timeout_(timeout_ms) {}

    // Announces a part, for which an answer must follow.
    void expect(const Frame &frame) {
        const std::lock_guard lock(mutex_);
        open_[frame.part] = frame.captured;
    }

    void judged(const Frame &frame, const kdx::Verdict &verdict, double infer_ms) {
        const std::lock_guard lock(mutex_);
        if (!open_.erase(frame.part)) return;  // the watchdog has already answered
        const auto now = Clock::now();
        if (is_late(frame.captured, now)) return answer_undecided(frame.part, "late");
        const double total = Milliseconds(now - frame.captured).count();
        char score[32] = "null";  // JSON has no NaN; the reason explains the missing score
        if (std::isfinite(verdict.score))
            std::snprintf(score, sizeof score, "%.6g", static_cast<double>(verdict.score));
        std::printf(
            "{\"part\": %ld, \"verdict\": \"%s\", \"score\": %s, \"frame_faults\": %u, \"reason\": %u, \"ms\": %.3f, "
            "\"waited_ms\": %.3f}\n",
            frame.part, kdx::name_of(verdict.decision), score, verdict.frame_faults, verdict.reason, total,
            total - infer_ms);
        std::fflush(stdout);
        times_.push_back(total);
        ++counts_[kdx::name_of(verdict.decision)];
    }

    void undecided(long part, const char *why) {
        const std::lock_guard lock(mutex_);
        if (open_.erase(part)) answer_undecided(part, why);
    }

    // Answers for every part whose verdict is late.
    void answer_late() {
        const std::lock_guard lock(mutex_);
        const auto now = Clock::now();
        for (auto each = open_.begin(); each != open_.end();) {
            if (!is_late(each->second, now)) {
                ++each;
                continue;
            }
            answer_undecided(each->first, "late");
            each = open_.erase(each);
        }
    }

    int summary() {
        const std::lock_guard lock(mutex_);
        std::sort(times_.begin(), times_.end());
        const auto at = [&](double share) {
            return times_.empty() ? 0.0
                                  : times_[static_cast<std::size_t>(share * static_cast<double>(times_.size() - 1))];
        };
        std::fprintf(stderr,
                     "%zu judged: %ld good, %ld to review, %ld defective, %ld undecided; %ld unanswered in time; "
                     "capture to verdict p50 %.2f ms, p99 %.2f ms, max %.2f ms\n",
                     times_.size(), counts_["good"], counts_["review"], counts_["defective"], counts_["undecided"],
                     unanswered_, at(0.5), at(0.99), at(1.0));
        return unanswered_ ? 1 : 0;
    }

private:
    bool is_late(Clock::time_point captured, Clock::time_point now) const { return now - captured > timeout_; }

    void answer_undecided(long part, const char *why) {
        std::printf("{\"part\": %ld, \"verdict\": \"undecided\", \"why\": \"%s\"}\n", part, why);
        std::fflush(stdout);
        ++unanswered_;
    }

    const Milliseconds timeout_;
    std::mutex mutex_;
    std::map<long, Clock::time_point> open_;
    std::vector<double> times_;
    std::map<std::string, long> counts_;
    long unanswered_ = 0;
};

void capture(const Settings &settings, const std::vector<Picture> &pictures, Queue &queue, Gate &gate) {
    const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / settings.fps));
    auto next = Clock::now();
    for (long part = 0; !stopping && (settings.count == 0 || part < settings.count); ++part) {
        std::this_thread::sleep_until(next);
        next += period;
        const Frame frame{part, Clock::now(), &pictures[static_cast<std::size_t>(part) % pictures.size()]};
        gate.expect(frame);
        if (const auto dropped = queue.push(frame)) gate.undecided(dropped->part, "dropped");
    }
    queue.close();
}

void judge(kdx::Detector &detector, Queue &queue, Gate &gate) {
    while (const auto frame = queue.pop()) {
        const auto started = Clock::now();
        try {
            const auto verdict = detector(frame->picture->image());
            gate.judged(*frame, verdict, Milliseconds(Clock::now() - started).count());
        } catch (const kdx::Error &error) {  // this frame has no verdict; the next call may succeed
            std::fprintf(stderr, "part %ld: %s\n", frame->part, error.what());
            gate.undecided(frame->part, "error");
        }
    }
}

// Answers for late parts, even if the inference thread hangs.
void watch(Gate &gate, const std::atomic<bool> &done) {
    while (!done) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        gate.answer_late();
    }
}

// Reads a number and nothing after it: std::stol alone would take "5x" for 5.
template <class Number>
Number number_of(const std::string &option, const std::string &value) {
    std::istringstream text(value);
    const auto kind = std::is_integral_v<Number> ? " must be a whole number" : " must be a number";
    Number number{};
    if (!(text >> number) || text.peek() != std::istringstream::traits_type::eof())
        throw std::runtime_error(option + kind + ", not '" + value + "'");
    return number;
}

Settings settings_of(int argc, char **argv) {
    if (argc < 3 || argc % 2 == 0)
        throw std::runtime_error(
            "line_cpp BUNDLE FRAMES [--fps N] [--frames N] [--queue N] [--timeout-ms N] [--threads N] [--backend NAME] "
            "[--precision NAME] [--cache DIR]");
    Settings settings;
    settings.bundle = argv[1], settings.frames = argv[2];
    for (int i = 3; i < argc; i += 2) {
        const std::string name = argv[i], value = argv[i + 1];
        if (name == "--fps")
            settings.fps = number_of<double>(name, value);
        else if (name == "--frames")
            settings.count = number_of<long>(name, value);
        else if (name == "--queue")
            settings.queue = number_of<long>(name, value);
        else if (name == "--timeout-ms")
            settings.timeout_ms = number_of<double>(name, value);
        else if (name == "--threads")
            settings.options.threads = number_of<int>(name, value);
        else if (name == "--backend")
            settings.options.backend = value;
        else if (name == "--precision")
            settings.options.precision = value;
        else if (name == "--cache")
            settings.options.cache_dir = value;
        else
            throw std::runtime_error("there is no option " + name);
    }
    if (settings.fps <= 0 || settings.queue < 1 || settings.timeout_ms <= 0 || settings.count < 0)
        throw std::runtime_error("--fps, --queue and --timeout-ms must be above 0, --frames must be at least 0");
    return settings;
}

}  // namespace

int main(int argc, char **argv) try {
    std::signal(SIGINT, stop);
    std::signal(SIGTERM, stop);
    const auto settings = settings_of(argc, argv);
    const auto pictures = read_pictures(settings.frames);
    kdx::Detector detector(settings.bundle, settings.options);
    // Why every part will be undecided, or what is not known about the threshold.
    if (*detector.describe().said) std::fprintf(stderr, "%s\n", detector.describe().said);
    // The first call is slow, and a wrong image size is detected before the line starts.
    detector(pictures.front().image());
    Queue queue(static_cast<std::size_t>(settings.queue));
    Gate gate(settings.timeout_ms);
    std::atomic<bool> done{false};
    std::thread watchdog([&] { watch(gate, done); });
    std::thread inference([&] { judge(detector, queue, gate); });
    std::thread camera([&] { capture(settings, pictures, queue, gate); });
    camera.join();
    inference.join();
    done = true;
    watchdog.join();
    return gate.summary();
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
